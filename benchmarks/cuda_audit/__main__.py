"""Compile every CUDA kernel and check its machine code, without a GPU: `make cuda-audit`.

Rules that hold for every kernel are in rules.py. Against the stored audit, no kernel may need more instructions, lose
occupancy or lose wide loads. `--write` stores the audit and the table in the documentation instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.cuda_audit.kernels import Kernel, compiled, kernels_of
from benchmarks.cuda_audit.occupancy import ARCHITECTURES
from benchmarks.cuda_audit.results import read, write, write_page
from benchmarks.cuda_audit.rules import Kernels, regressions, violations
from build_support.cuda import Toolkit, install_hint, toolkits

ROOT = Path(__file__).parents[2]
STORED = ROOT / "benchmarks" / "results" / "cuda-audit.json"
PAGE = ROOT / "docs" / "cuda-kernels.md"
TOOLKIT = "13.0"  # other compilers make other machine code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help=f"write {STORED.relative_to(ROOT)} and {PAGE.name}")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "cuda-audit", help="folder of the machine code")
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=ARCHITECTURES,
        default=list(ARCHITECTURES),
        metavar="A",
        help=f"compute capabilities to compile for, of {' '.join(ARCHITECTURES)} (all)",
    )
    arguments = parser.parse_args(argv)
    if arguments.write and set(arguments.architectures) != set(ARCHITECTURES):
        parser.error("--write: expected all architectures")
    os.chdir(ROOT)
    kernels = audited(toolkit(), arguments.build, arguments.architectures)
    found = list(violations(kernels))
    if arguments.write:
        write(STORED, kernels, TOOLKIT)
        write_page(PAGE, kernels, TOOLKIT)
    else:
        stored = read(STORED)[0]
        found += regressions(kernels, {key: stored[key] for key in stored if key[1] in arguments.architectures})
    print(f"{len(kernels)} kernels for sm {' '.join(arguments.architectures)}, {len(found)} findings")
    for one in found:
        print(one, file=sys.stderr)
    return 1 if found else 0


def toolkit() -> Toolkit:
    found = next((toolkit for toolkit in toolkits() if toolkit.version == TOOLKIT), None)
    if found is None:
        raise SystemExit(f"nvcc: expected version {TOOLKIT}, got none: {install_hint(TOOLKIT)}")
    return found


def audited(toolkit: Toolkit, folder: Path, architectures: Sequence[str]) -> Kernels:
    """All kernels for some architectures."""
    jobs = list(product(sorted(Path("csrc/ops").glob("*/*_cuda.cu")), architectures))

    def audit(job: tuple[Path, str]) -> dict[tuple[str, str], Kernel]:
        source, architecture = job
        cubin = compiled(source, architecture, toolkit, folder)
        return {(name, architecture): kernel for name, kernel in kernels_of(cubin)}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {key: kernel for kernels in pool.map(audit, jobs) for key, kernel in kernels.items()}


if __name__ == "__main__":
    raise SystemExit(main())
