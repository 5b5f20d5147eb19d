"""`make bench`: runs every benchmark, writes `benchmarks/results/<machine>.json`, and the README's table from it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks.bench_linear_token_logprobs import IMPLEMENTATIONS
from benchmarks.machine import machine, slug
from benchmarks.pages import readable, replace_between

ROOT = Path(__file__).parent.parent
MARKS = ("<!-- benchmarks:begin -->", "<!-- benchmarks:end -->")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
        subprocess.run(
            [*command, *map(str, sorted(ROOT.glob("benchmarks/bench_*.py"))), f"--benchmark-json={raw}", *sys.argv[1:]],
            check=True,
            cwd=ROOT,
        )
        benchmarks = json.loads(raw.read_text())["benchmarks"]
    here = machine()
    results = {"machine": here, "rows": rows(benchmarks), "peak_memory": peak_memory()}
    name = slug(f"{here['cpu']} {here['cores']} cores")
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    write_readme(results)
    print(f"wrote {path.relative_to(ROOT)} and the table in README.md")


def rows(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per group and implementation: the median over the rounds of all turns, and the ratio to the first row."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    moved: dict[tuple[str, str], int | None] = {}
    for benchmark in benchmarks:
        key = benchmark["group"], benchmark["extra_info"]["implementation"]
        seconds[key] += benchmark["stats"]["data"]
        moved[key] = benchmark["extra_info"]["bytes"]
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    first_of_group: dict[str, float] = {}
    for (group, _), median in medians.items():
        first_of_group.setdefault(group, median)
    return [
        {
            "group": group,
            "implementation": implementation,
            "seconds": median,
            "ratio": median / first_of_group[group],
            "gigabytes_per_second": (moved[group, implementation] or 0) / median / 1e9 or None,
            "rounds": len(seconds[group, implementation]),
        }
        for (group, implementation), median in medians.items()
    ]


def peak_memory() -> list[dict[str, Any]]:
    """Extra memory of the LM head at its peak, each implementation in a process of its own."""
    measured = []
    for implementation in IMPLEMENTATIONS:
        command = [sys.executable, "-m", "benchmarks.peak_memory", implementation]
        printed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout.split()
        measured.append({"implementation": implementation, "extra": int(printed[0]), "logits": int(printed[1])})
    return measured


def write_readme(results: dict[str, Any]) -> None:
    table = [
        [
            row["group"],
            row["implementation"],
            readable(row["seconds"]),
            f"{row['ratio']:.3g}x",
            f"{row['gigabytes_per_second']:.1f}" if row["gigabytes_per_second"] else "",
        ]
        for row in results["rows"]
    ]
    memory = [
        [row["implementation"], f"{row['extra'] / 2**20:.0f}", f"{row['extra'] / row['logits']:.2f}"]
        for row in results["peak_memory"]
    ]
    here = results["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("torch", "trl", "segkernel") if name in here)
    text = "\n\n".join(
        [
            f"{here['cpu']}, {here['cores']} cores, {here['isa']}; Python {here['python']}, {versions}. Medians over "
            "interleaved turns; the ratio is to the first row of its group; GB/s counts the logits that were needed.",
            tabulate(
                table, ["work", "implementation", "time", "ratio", "GB/s"], tablefmt="github", disable_numparse=True
            ),
            "Peak memory of the LM head (N=1024, H=896, V=151936, bf16) beyond inputs and gradients:",
            tabulate(memory, ["implementation", "MiB", "of the logits"], tablefmt="github", disable_numparse=True),
        ]
    )
    replace_between(ROOT / "README.md", MARKS, text)


if __name__ == "__main__":
    main()
