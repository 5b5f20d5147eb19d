"""`python -m build_support.inspect_wheel WHEEL...`: check the shared libraries and symbols that a wheel needs.

Only the C functions of torch's stable ABI are allowed: any other torch symbol ties the wheel to one torch version.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

STABLE_ABI = re.compile(r"(aoti_)?torch_\w+")
PYTHON = re.compile(r"_?Py\w+")
TOOLCHAIN = re.compile(r"_ITM_\w+|__gmon_start__|__tls_get_addr|__cxa_finalize")  # weak, or the dynamic linker's own
SYSTEM = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1"}
VERSIONED = ("GLIBC", "GLIBCXX", "CXXABI", "GCC")


@dataclass(frozen=True)
class Kind:
    """Allowed dependencies of one of the wheel's libraries, in addition to system libraries."""

    needs: frozenset[str]
    symbols: re.Pattern[str]


KINDS = {
    "_cpu.so": Kind(frozenset({"libtorch_cpu.so"}), STABLE_ABI),
    "_cuda.so": Kind(frozenset({"libtorch_cpu.so", "libtorch_cuda.so"}), STABLE_ABI),
    "_numpy": Kind(frozenset(), PYTHON),
}


@dataclass
class Library:
    name: str
    needed: list[str]
    versions: dict[str, str]  # the newest version of each kind: {"GLIBC": "2.34"}
    problems: list[str] = field(default_factory=list)


def inspect_library(path: Path) -> Library:
    """List what a library needs and what of it is not allowed for its kind, which its file name gives."""
    kind = next(kind for name, kind in KINDS.items() if path.name == name or path.name.startswith(f"{name}."))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", "--wide", path))
    library = Library(path.name, needed, {})
    for name in needed:
        if name not in kind.needs | SYSTEM and not name.startswith("ld-linux"):
            library.problems.append(f"needs {name}")
    missing = sorted(kind.needs - set(needed))
    library.problems += [f"lacks a NEEDED entry for {name}, whose symbols it uses" for name in missing]
    for line in output("nm", "--dynamic", "--undefined-only", path).splitlines():
        symbol, _, version = line.split()[-1].partition("@")
        release = re.fullmatch(r"@?([A-Z]+)_([\d.]+)", version)
        if release is not None and release[1] in VERSIONED:
            library.versions[release[1]] = max(library.versions.get(release[1], "0"), release[2], key=as_tuple)
        elif kind.symbols.fullmatch(symbol) is None and TOOLCHAIN.fullmatch(symbol) is None:
            library.problems.append(f"uses {output('c++filt', symbol).strip()}")
    return library


def inspect_wheel(wheel: Path) -> list[Library]:
    """Print the contents of a wheel; returns its libraries with the problems found."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        shared = [name for name in archive.namelist() if re.search(r"\.so(\.\d+)*$", name)]
        archive.extractall(folder)
        root = Path(folder) / "segkernel"
        foreign = [name for name in shared if not Path(name).name.startswith(("_cpu.so", "_cuda.so", "_numpy."))]
        libraries = [inspect_library(Path(folder) / name) for name in shared if name not in foreign]
        libraries += [Library(name, [], {}, ["is not part of segkernel"]) for name in foreign]
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB")
        for library in libraries:
            versions = ", ".join(f"{name} {version}" for name, version in sorted(library.versions.items()))
            print(f"  {library.name}: needs {', '.join(library.needed)}; {versions}")
            if library.name == "_cuda.so":
                described = json.loads((root / "_cuda.json").read_text())
                compare_architectures(library, root / library.name, described)
                print(
                    f"    CUDA {described['toolkit']}, {', '.join(described['architectures'])}, PTX {described['ptx']}"
                )
            for problem in library.problems:
                print(f"    problem: {problem}")
    return libraries


def compare_architectures(library: Library, path: Path, described: dict[str, object]) -> None:
    """Compare the machine code in the file with its description, if cuobjdump is installed."""
    cuobjdump = shutil.which("cuobjdump")
    if cuobjdump is None:
        print("    architectures not compared: cuobjdump is not installed")
        return
    listed = output(cuobjdump, "--list-elf", "--list-ptx", path)
    architectures = described["architectures"]
    assert isinstance(architectures, list)
    expected = {f"sm_{name.replace('.', '')}.cubin" for name in architectures}
    expected.add(f"sm_{str(described['ptx']).replace('.', '')}.ptx")
    found = set(re.findall(r"\bsm_\w+\.(?:cubin|ptx)", listed))
    library.problems += [f"has no {name}" for name in sorted(expected - found)]
    library.problems += [f"has {name}, which _cuda.json does not list" for name in sorted(found - expected)]


def as_tuple(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(wheels: list[str]) -> int:
    problems = [problem for wheel in wheels for library in inspect_wheel(Path(wheel)) for problem in library.problems]
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
