"""The stored audit: a JSON file with a line per source and per kernel, and the table on the page of CUDA kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from benchmarks.cuda_audit.kernels import SPECIAL_CYCLES, Kernel
from benchmarks.cuda_audit.occupancy import ARCHITECTURES
from benchmarks.cuda_audit.rules import Kernels
from benchmarks.pages import replace_between

MARKERS = ("<!-- cuda-audit:begin -->", "<!-- cuda-audit:end -->")
SHOWN = "9.0"  # the architecture whose instructions and occupancy the table shows
TYPES = r"\b(bfloat16|float|FoldMonoid|PrefixState<[^>]*>|OpenSegment<[^>]*>)"
COLUMNS = [field.name for field in fields(Kernel)]


class Audit(NamedTuple):
    """Kernels, the version of the toolkit that compiled them, and the fingerprints of their sources by path."""

    kernels: Kernels
    toolkit: str
    fingerprints: Mapping[str, str]


def write(path: Path, audit: Audit) -> None:
    """Write the audit; every kernel is a line, with the values of `columns` for each architecture."""
    lines = []
    for name in sorted({name for name, _ in audit.kernels}):
        values = {
            architecture: astuple(audit.kernels[name, architecture])
            for architecture in ARCHITECTURES
            if (name, architecture) in audit.kernels
        }
        lines.append(f"  {json.dumps(name)}: {json.dumps(values)}")
    head = f'"toolkit": {json.dumps(audit.toolkit)},\n "columns": {json.dumps(COLUMNS)}'
    sources = json.dumps(audit.fingerprints, indent=2, sort_keys=True).replace("\n}", "\n }")
    kernels = ",\n".join(lines)
    path.write_text(f'{{{head},\n "sources": {sources},\n "kernels": {{\n{kernels}\n}}}}\n', encoding="utf-8")


def read(path: Path) -> Audit:
    """A stored audit."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    kernels = {
        (name, architecture): Kernel(**dict(zip(stored["columns"], values, strict=True)))
        for name, by_architecture in stored["kernels"].items()
        for architecture, values in by_architecture.items()
    }
    return Audit(kernels, stored["toolkit"], stored["sources"])


def is_shown(name: str) -> bool:
    """Whether the table has a kernel.

    Example:
        >>> is_shown("gae_kernel<bfloat16, float>"), is_shown("valid_kernel"), is_shown("gae_kernel<float16, float>")
        (True, True, False)
    """
    return "bfloat16" in name or re.search(r"\b(double|float|float16)\b", name) is None


def displayed(name: str) -> str:
    """Name of a kernel of the table, without its types: they are the same for all.

    Example:
        >>> displayed("few_rows_kernel<false, logprobs, bfloat16, float>")
        'few_rows<false, logprobs>'
        >>> displayed("segment_kernel<max, bfloat16, PrefixState<float>, OpenSegment<max, float> >")
        'segment<max>'
        >>> displayed("gae_kernel<bfloat16, float>")
        'gae'
    """
    function, _, arguments = name.partition("<")
    words = re.findall(r"\w+", re.sub(TYPES, "", arguments))
    return function.removesuffix("_kernel") + (f"<{', '.join(words)}>" if words else "")


def table(kernels: Kernels) -> str:
    """Markdown table of the kernels for bfloat16, or for no floating-point values, as compiled for `SHOWN`."""
    rows = []
    for name in sorted({name for name, _ in kernels if is_shown(name)}):
        registers = [kernels[name, architecture].registers for architecture in ARCHITECTURES]
        shown = kernels[name, SHOWN]
        rows.append(
            [
                f"`{displayed(name)}`",
                " / ".join(map(str, registers)),
                shown.shared_memory,
                shown.threads,
                f"{shown.occupancy(SHOWN):.0%}",
                shown.stack or "",
                shown.wide_loads or "",
                f"{shown.instructions:.0f}" if shown.is_loop else "",
                f"{SPECIAL_CYCLES * shown.special:.0f}" if shown.is_loop and shown.special else "",
            ]
        )
    headers = [
        "kernel",
        "registers, sm_" + " / ".join(name.replace(".", "") for name in ARCHITECTURES),
        "shared",
        "threads",
        "occupancy",
        "stack",
        "loads",
        "instructions",
        "special",
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def write_page(page: Path, audit: Audit) -> None:
    replace_between(page, MARKERS, f"Compiled by nvcc {audit.toolkit}.\n\n{table(audit.kernels)}")
