"""Compile every CUDA kernel and check its machine code, without a GPU: `make cuda-audit`.

Rules that hold for every kernel are in rules.py. Against the stored audit, no kernel may need more instructions, lose
occupancy or lose wide loads. `--write` stores the audit and the table in the documentation instead. With fewer
architectures, the others are compiled for sources that changed since the audit was stored, unless `--no-others`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.cuda_audit.kernels import Kernel, compiled, fingerprint_of, kernels_of
from benchmarks.cuda_audit.occupancy import ARCHITECTURES
from benchmarks.cuda_audit.results import Audit, read, write, write_page
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
        help=f"compute capabilities to compile every source for, of {' '.join(ARCHITECTURES)} (all)",
    )
    parser.add_argument(
        "--no-others", action="store_true", help="do not compile changed sources for the other architectures"
    )
    arguments = parser.parse_args(argv)
    if arguments.write and set(arguments.architectures) != set(ARCHITECTURES):
        parser.error("--write: expected all architectures")
    os.chdir(ROOT)
    compiler = toolkit()
    fingerprints = {str(source): fingerprint_of(source, compiler) for source in sources()}
    stored = None if arguments.write else read(STORED)
    others = () if stored is None or arguments.no_others else changed(fingerprints, stored.fingerprints)
    jobs = jobs_of(fingerprints, arguments.architectures, others)
    kernels = audited(jobs, compiler, arguments.build)
    found = list(violations(kernels))
    if stored is None:
        audit = Audit(kernels, TOOLKIT, fingerprints)
        write(STORED, audit)
        write_page(PAGE, audit)
    else:
        found += regressions(kernels, comparable(stored.kernels, kernels, arguments.architectures))
        for source in others:
            print(f"{source}: newer than the stored audit; `python -m benchmarks.cuda_audit --write` stores a new one")
    print(f"{len(kernels)} kernels for sm {' '.join(arguments.architectures)}, {len(found)} findings")
    for one in found:
        print(one, file=sys.stderr)
    return 1 if found else 0


def toolkit() -> Toolkit:
    found = next((toolkit for toolkit in toolkits() if toolkit.version == TOOLKIT), None)
    if found is None:
        raise SystemExit(f"nvcc: expected version {TOOLKIT}, got none: {install_hint(TOOLKIT)}")
    return found


def sources() -> list[Path]:
    return sorted(Path("csrc/ops").glob("*/*_cuda.cu"))


def changed(fingerprints: Mapping[str, str], stored: Mapping[str, str]) -> list[str]:
    """Sources whose machine code may differ from that of the stored audit."""
    return [source for source, found in fingerprints.items() if stored.get(source) != found]


def jobs_of(every: Iterable[str], architectures: Sequence[str], others: Collection[str]) -> list[tuple[str, str]]:
    """Sources with the architectures to compile them for: all sources for `architectures`, some for all others."""
    return [
        (source, architecture)
        for source, architecture in product(every, ARCHITECTURES)
        if architecture in architectures or source in others
    ]


def audited(jobs: Iterable[tuple[str, str]], toolkit: Toolkit, folder: Path) -> Kernels:
    """All kernels of sources, each for an architecture."""

    def audit(job: tuple[str, str]) -> dict[tuple[str, str], Kernel]:
        source, architecture = job
        cubin = compiled(Path(source), architecture, toolkit, folder)
        return {(name, architecture): kernel for name, kernel in kernels_of(cubin)}

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {key: kernel for kernels in pool.map(audit, jobs) for key, kernel in kernels.items()}


def comparable(stored: Kernels, kernels: Kernels, architectures: Collection[str]) -> Kernels:
    """Stored kernels of the architectures that every source was compiled for, and those that were compiled again.

    A kernel that its source lost is missing on all architectures, so that one of them shows it.
    """
    return {key: kernel for key, kernel in stored.items() if key[1] in architectures or key in kernels}


if __name__ == "__main__":
    raise SystemExit(main())
