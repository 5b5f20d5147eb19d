"""CPU benchmarks and the pages of all results: `make bench`.

Measures every group, writes `benchmarks/results/<machine>.json`, and updates the tables in `docs/benchmarks.md` and, on
the machine of the README, its headline table. `--render` only updates the pages from the stored results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.machine import cpu_slug, machine
from benchmarks.pages import readable, replace_between
from benchmarks.targets import Rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
CPU_MARKERS = ("<!-- benchmarks:begin -->", "<!-- benchmarks:end -->")
GPU_MARKERS = ("<!-- gpu:begin -->", "<!-- gpu:end -->")
HEADLINE_MARKERS = ("<!-- headline:begin -->", "<!-- headline:end -->")
PASSED, NOT_MEASURED = "passed", "not measured yet"

HEADLINE_MACHINE = "amd-epyc-2-cores-avx512"  # of the README; the first one of the page
# Prefix of the work, and the peers that the headline table compares with.
HEADLINE = {
    "token_logprobs + entropy, forward, bf16": ("torch.compile", "TRL"),
    "token_logprobs, forward + backward, bf16": ("torch.compile", "TRL"),
    "linear_token_logprobs, forward + backward, bf16": ("materialized logits", "TRL chunked"),
    "segment [16, 1024]": ("vectorized torch",),
    "segment [64, 8192]": ("vectorized torch",),
    "gae [16, 1024]": ("loop over steps",),
}

Results = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    from benchmarks.cases import CPU_GROUPS

    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--render", action="store_true", help="only update the pages from the stored results")
    parser.add_argument("--only", nargs="+", choices=CPU_GROUPS, help="measure these groups, keep the others' rows")
    arguments = parser.parse_args(argv)
    if not arguments.render:
        measure(arguments.only or list(CPU_GROUPS), order=list(CPU_GROUPS))
    write_pages(stored_results())
    return 0


def measure(groups: Sequence[str], order: Sequence[str]) -> None:
    """Measure groups, each in a process of its own, and store the rows, in the order of all groups."""
    here = machine()
    path = RESULTS / f"{cpu_slug(here)}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for group in groups:
        print(f"{group} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "rows.json"
            command = [sys.executable, "-m", "benchmarks.measure", group, "cpu", "--output", str(output)]
            subprocess.run(command, check=True, cwd=ROOT)
            found = [{"group": group, **row} for row in json.loads(output.read_text())]
        rows = [row for row in rows if row["group"] != group] + found
    rows.sort(key=lambda row: order.index(row["group"]))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": here, "rows": rows}, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")


def stored_results() -> list[Results]:
    """Benchmark results of all machines; those of the GPU check have `targets`."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [results for results in found if "rows" in results]


def write_pages(results: Sequence[Results]) -> None:
    """Update the generated tables of the documentation and the README."""
    of_cpu = {cpu_slug(found["machine"]): found for found in results if "targets" not in found}
    main = of_cpu.pop(HEADLINE_MACHINE, None)
    tables = [cpu_text(found) for found in ([main] if main else []) + list(of_cpu.values())]
    replace_between(PAGE, CPU_MARKERS, "\n\n".join(tables) or NOT_MEASURED)
    replace_between(README, HEADLINE_MARKERS, headline_text(main) if main else NOT_MEASURED)
    write_gpu_table(results)


def write_gpu_table(results: Sequence[Results]) -> None:
    of_gpu = [found for found in results if "targets" in found]
    replace_between(PAGE, GPU_MARKERS, "\n\n".join(map(gpu_text, of_gpu)) or NOT_MEASURED)


def cpu_text(results: Results) -> str:
    """Environment and table of a CPU's results."""
    references: dict[str, float] = {}
    cells = []
    for row in results["rows"]:
        if "seconds" not in row:
            continue
        reference = references.setdefault(row["work"], row["seconds"])
        cells.append(
            [
                row["work"],
                row["implementation"],
                readable(row["seconds"]),
                f"{row['seconds'] / reference:.3g}x",
                gigabytes_per_second(row),
                f"{row['extra_bytes'] / 2**20:.0f}" if "extra_bytes" in row else "",
            ]
        )
    text = (
        f"{environment(results)} Medians over interleaved turns. Ratios are to the first row of each work; GB/s counts "
        "the bytes that the work has to move; extra MiB is the peak of resident memory beyond inputs and gradients."
    )
    return f"{text}\n\n{table(['work', 'implementation', 'time', 'ratio', 'GB/s', 'extra MiB'], cells)}"


def headline_text(results: Results) -> str:
    """Short table for the README: segkernel next to its peers."""
    rows, cells = Rows(results["rows"]), []
    for work, peers in HEADLINE.items():
        for peer in peers:
            try:
                name = next(row["work"] for row in results["rows"] if row["work"].startswith(work))
                ours, theirs = rows.seconds(work), rows.seconds(work, peer)
            except (LookupError, StopIteration):
                continue
            cells.append([name, readable(ours), peer, readable(theirs), f"{theirs / ours:.3g}x"])
    return f"{environment(results)}\n\n{table(['work', 'segkernel', 'peer', 'time', 'speed-up'], cells)}"


def gpu_text(results: Results) -> str:
    """Environment, targets and table of a GPU's results."""
    try:
        copied = Rows(results["rows"]).bandwidth("copy", "torch")
    except LookupError:
        copied = None
    goals = [
        [
            judged["work"],
            targets.bound(judged),
            targets.scalar(judged, "measured") if "measured" in judged else "not measured",
            {True: "yes", False: "no", None: ""}[judged.get("met")],
        ]
        for judged in results["targets"]
    ]
    measured = [
        [
            row["work"],
            row["implementation"],
            readable(row["seconds"]),
            gigabytes_per_second(row),
            f"{100 * row['bytes'] / row['seconds'] / copied:.0f} %" if "bytes" in row and copied else "",
            f"{row['extra_bytes'] / 2**30:.2f}" if "extra_bytes" in row else "",
        ]
        for row in results["rows"]
        if "seconds" in row
    ]
    here = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in here.items() if name != "gpu")
    copy = f"A copy moves {copied / 1e9:.0f} GB/s." if copied else "The copy's bandwidth was not measured."
    parts = [
        f"{here['gpu']}; {versions}. Medians of event-timed calls; `segment`, `gae` and their torch versions are "
        "replayed from CUDA graphs, except for rows with the call. Inputs rotate, so that none is in the cache. GB/s "
        f"counts the bytes that the work has to move; extra GiB is memory beyond inputs and gradients. {copy}",
        table(["work", "target", "measured", "met"], goals),
        table(["work", "implementation", "time", "GB/s", "of a copy", "extra GiB"], measured),
    ]
    if absent := sorted({row["implementation"] for row in results["rows"] if "missing" in row}):
        parts.append(f"Not installed or failing there: {', '.join(absent)}.")
    if amiss := [f"{phase['name']} ({phase['outcome']})" for phase in results["phases"] if phase["outcome"] != PASSED]:
        parts.append(f"Phases of this run that did not pass: {', '.join(amiss)}.")
    return "\n\n".join(parts)


def environment(results: Results) -> str:
    """Machine and versions in one sentence."""
    here = results["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("torch", "trl", "segkernel") if name in here)
    return f"{here['cpu']}, {here['cores']} cores, {here['isa']}; Python {here['python']}, {versions}."


def gigabytes_per_second(row: Mapping[str, Any]) -> str:
    rate = row["bytes"] / row["seconds"] / 1e9 if "bytes" in row else 0.0
    return "" if not rate else f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    from tabulate import tabulate  # `make gpu-check` imports this file before it checks its requirements

    return tabulate(cells, headings, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    sys.exit(main())
