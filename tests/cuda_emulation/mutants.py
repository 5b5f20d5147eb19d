"""Mutation test of the CUDA kernels: break them on purpose and report the tests that fail.

    python -m tests.cuda_emulation.mutants [TEXT]

Each mutant is one edit to a copy of the sources. It is built for the emulation, with sanitizers where noted, and the
operator's tests run on it; they must pass on the copy without the edit. Prints the table of README.md in this folder.
TEXT selects the mutants whose description contains it. Fails if a mutant survives or if the sources no longer contain
the text to edit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    what: str
    file: str
    old: str
    new: str
    operators: tuple[str, ...]  # operators that the tests call
    tests: tuple[str, ...]
    sanitize: bool = False


# Operators that test_scan_references.py calls.
SCANS = ("hysteresis", "detect_pivots", "segment_by_entropy", "redistribute", "gae", "discounted_sum")
MUTANTS = (
    Mutant(
        "tail: the last vector of a row counts one logit too many",
        "csrc/ops/token_logprobs/token_logprobs_device.cuh",
        "return mine + u * kStride<T> + j < count ?",
        "return mine + u * kStride<T> + j <= count ?",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "tail: a thread reads one token past its row",
        "csrc/cuda/row_tiles.cuh",
        "if (first + i < length) items.of[i] = row[first + i];",
        "if (first + i <= length) items.of[i] = row[first + i];",
        ("hysteresis",),
        ("test_hysteresis.py",),
        sanitize=True,
    ),
    Mutant(
        "barrier: warps read each other's totals before they are written",
        "csrc/cuda/warp.cuh",
        "  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;\n  __syncthreads();\n",
        "  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;\n",
        SCANS,
        ("test_scan_references.py",),
    ),
    Mutant(
        "barrier: totals are overwritten while other threads read them",
        "csrc/cuda/warp.cuh",
        "  __syncthreads();  // WAR hazard: threads may still read it for a previous call\n"
        "  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;\n",
        "  if (lane_index() == kWarp - 1) of_warp[warp_index()] = inclusive;\n",
        SCANS,
        ("test_scan_references.py",),
    ),
    Mutant(
        "barrier: a thread without a token exits before it",
        "csrc/ops/segment/segment_cuda.cu",
        "  const ExclusiveScan<Prefix> prefix = scan(tokens.prefix_state());\n",
        "  if (tokens.first() >= tile.length()) return;\n"
        "  const ExclusiveScan<Prefix> prefix = scan(tokens.prefix_state());\n",
        ("segment", "hysteresis"),
        ("test_segment.py",),
    ),
    Mutant(
        "look-back: a block does not wait for an aggregate",
        "csrc/cuda/lookback.cuh",
        "while (!is_ready(words[i])) {",
        "while (false) {",
        ("segment", "hysteresis"),
        ("test_segment.py",),
    ),
    Mutant(
        "look-back: a block without a tile publishes nothing",
        "csrc/ops/segment/segment_cuda.cu",
        "    prefixes.publish(tile.block, Prefix::identity());\n    opens.publish(tile.block, Open::identity());\n",
        "",
        (*SCANS, "segment", "select_tokens", "segment_reduce", "segment_broadcast"),
        ("test_bad_input.py",),
    ),
    Mutant(
        "look-back: a tile of a row ignores the earlier ones",
        "csrc/cuda/tile_schedule.cuh",
        "return tile.index == 0 ? identity",
        "return tile.index >= 0 ? identity",
        SCANS,
        ("test_scan_references.py",),
    ),
    Mutant(
        "tiles: the last valid token of every tile gets the reward of the sequence",
        "csrc/ops/redistribute/redistribute_cuda.cu",
        " || valid_after(mask, tile)) return;",
        ") return;",
        SCANS,
        ("test_scan_references.py",),
    ),
    Mutant(
        "runs: those of earlier tiles are not counted",
        "csrc/ops/segment_by_mask/segment_by_mask_cuda.cu",
        "int32_t id = earlier + scanned.prefix - 1;",
        "int32_t id = scanned.prefix - 1;",
        ("hysteresis", "segment_by_mask"),
        ("test_segment_by_mask.py",),
    ),
    Mutant(
        "chains: those that meet after unequally many starts count as one",
        "csrc/ops/segment_by_entropy/segment_by_entropy_cuda.cu",
        " && links[0].starts == links[last].starts;",
        ";",
        ("segment_by_entropy",),
        ("test_segment_by_entropy.py",),
    ),
    Mutant(
        "chains: links are doubled while other threads follow them",
        "csrc/ops/segment_by_entropy/segment_by_entropy_cuda.cu",
        "      __syncthreads();\n      for_each([&](int i, int candidate) { links[candidate] = doubled[i]; });\n",
        "      for_each([&](int i, int candidate) { links[candidate] = doubled[i]; });\n",
        ("segment_by_entropy",),
        ("test_segment_by_entropy.py",),
    ),
    Mutant(
        "group members: they are visited before all are written",
        "csrc/ops/group_normalize/group_normalize_cuda.cu",
        "    __syncthreads();\n    for (int i = 0; i < scanned.total; ++i)",
        "    for (int i = 0; i < scanned.total; ++i)",
        ("hysteresis", "group_normalize"),
        ("test_group_normalize.py",),
    ),
    Mutant(
        "group members: only the nearest rows are searched for an earlier one",
        "csrc/ops/group_normalize/group_normalize_cuda.cu",
        "for (int64_t chunk = row; chunk > 0; chunk -= kThreads)",
        "for (int64_t chunk = row; chunk > 0; chunk = 0)",
        ("hysteresis", "group_normalize"),
        ("test_group_normalize.py",),
    ),
    Mutant(
        "histogram: bins are cleared while other threads count",
        "csrc/ops/select_tokens/select_tokens_cuda.cu",
        "histogram[bin] = 0;\n    __syncthreads();\n",
        "histogram[bin] = 0;\n",
        ("select_tokens",),
        ("test_select_tokens.py",),
    ),
    Mutant(
        "ties: those of a row's earlier blocks are not counted",
        "csrc/ops/select_tokens/select_tokens_long_rows.cuh",
        "earlier < part.part;",
        "earlier < 0;",
        ("select_tokens",),
        ("test_select_tokens.py",),
    ),
    Mutant(
        "stream: kernels run on the default stream",
        "csrc/cuda/launch.h",
        "  config.stream = stream;\n",
        "",
        ("hysteresis",),
        ("test_hysteresis.py",),
    ),
    Mutant(
        "graph: the host clears memory instead of the device",
        "csrc/torch/tile_memory.cuh",
        "cudaMemsetAsync(words_, 0, count * sizeof(uint64_t), device.stream())",
        "(memset(words_, 0, count * sizeof(uint64_t)), cudaSuccess)",
        ("segment", "hysteresis"),
        ("test_cuda.py::test_emulated_graph_replays_on_other_inputs[long_rows]",),
    ),
    Mutant(
        "offset width: the row's offset in 32 bits",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "return logits + offset(row);",
        "return logits + static_cast<int32_t>(offset(row));",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "masked row: read before the mask is tested",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "  if (kind != RowKind::scored) {\n    if (threadIdx.x == 0) outputs",
        "  if (kind != RowKind::scored) {\n    if (threadIdx.x == 0 && widen(batch.row(blockIdx.x)[0]) == 1) return;\n"
        "    if (threadIdx.x == 0) outputs",
        ("token_logprobs", "token_divergences", "segment_reduce"),
        ("test_token_logprobs_unread.py",),
    ),
    Mutant(
        "few rows: a masked row counts as scored",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "const bool is_scored = kind == RowKind::scored;",
        "const bool is_scored = thread < count && kind != RowKind::label_out_of_range;",
        ("token_logprobs", "token_divergences", "segment_reduce"),
        ("test_token_logprobs_unread.py",),
    ),
    Mutant(
        "few rows: scored rows are counted before all warps have theirs",
        "csrc/cuda/warp.cuh",
        "of_warp[warp_index()] = __popc(lanes);\n  __syncthreads();\n",
        "of_warp[warp_index()] = __popc(lanes);\n",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "few rows: the list of scored rows is read before all are in it",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "scored[earlier.prefix] = thread;\n  __syncthreads();\n",
        "scored[earlier.prefix] = thread;\n",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "few rows: the warp of the labels merges the sums of another row",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "(sums[warp_index() % kRowsOfBlock], transform)",
        "(sums[writes_labels ? 0 : warp_index()], transform)",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "few rows: warps merge sums that others have yet to write",
        "csrc/ops/token_logprobs/token_logprobs_cuda.cu",
        "  __syncthreads();\n  if (row < 0) return;\n",
        "  if (row < 0) return;\n",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "groups: a warp's sums overwrite those of another group",
        "csrc/ops/token_logprobs/token_logprobs_device.cuh",
        "of_warps[group * kWarps + warp_index() % kWarps] = sums;",
        "of_warps[warp_index() % (kGroups * kWarps)] = sums;",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "pairs: a warp's sums overwrite those of another group",
        "csrc/ops/token_divergences/token_divergences_device.cuh",
        "group * kWarpsOf<kLogitThreads> + warp_index() % kWarpsOf<kLogitThreads>);",
        "warp_index());",
        ("token_divergences",),
        ("test_token_divergences.py",),
    ),
    Mutant(
        "pairs: all groups read the chunks of the first",
        "csrc/ops/token_divergences/token_divergences_device.cuh",
        "body(group * kPairChunk<T>,",
        "body(0 * group,",
        ("token_divergences",),
        ("test_token_divergences.py",),
    ),
    Mutant(
        "few pairs: warps merge sums that others have yet to write",
        "csrc/ops/token_divergences/token_divergences_device.cuh",
        "  __syncthreads();\n  const auto all",
        "  const auto all",
        ("token_divergences",),
        ("test_token_divergences.py",),
    ),
    Mutant(
        "argmax: a lane without the largest logit of its warp counts",
        "csrc/ops/token_logprobs/token_logprobs_device.cuh",
        "mine.index != Totals<C>::kNone && mine.largest == largest;",
        "mine.index != Totals<C>::kNone;",
        ("token_logprobs",),
        ("test_token_logprobs.py",),
    ),
    Mutant(
        "labels: the upstream gradients of ignored labels count",
        "csrc/ops/token_logprobs/token_logprobs_gradient.h",
        "        if (labels[k] != kIgnoredLabel) grad_logprob += ",
        "        grad_logprob += ",
        ("token_logprobs", "linear_token_logprobs"),
        ("test_several_labels.py",),
    ),
    Mutant(
        "slices: a label belongs to the block after its own, too",
        "csrc/ops/token_logprobs/token_logprobs_device.cuh",
        "at >= 0 && at >= slice.begin && at < slice.end;",
        "at >= 0 && at < slice.end;",
        ("token_logprobs",),
        ("test_token_logprobs_gradients.py",),
    ),
    Mutant(
        "slices: what a misaligned row has beyond its last chunk belongs to no block",
        "csrc/ops/token_logprobs/token_logprobs_device.cuh",
        "block + 1 == blocks ? row.end : begin + chunks * kChunk<T>",
        "begin + chunks * kChunk<T> < row.end ? begin + chunks * kChunk<T> : row.end",
        ("token_logprobs",),
        ("test_token_logprobs_gradients.py",),
    ),
)


def copy_sources(to: Path) -> None:
    for folder in ("csrc", "tests"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)


def edit(mutant: Mutant, folder: Path) -> None:
    source = folder / mutant.file
    text = source.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file}: expected this text once: {mutant.old!r}")
    source.write_text(text.replace(mutant.old, mutant.new))


def first_failure(mutant: Mutant, folder: Path) -> str:
    """The first of the mutant's tests to fail on the sources in `folder`, or the empty string."""
    program = (
        "from tests.cuda_emulation import build as b\n"
        f"kernels = [b.ROOT / f'csrc/ops/{{name}}/{{name}}_cuda.cu' for name in {mutant.operators}]\n"
        "sources = [*b.TORCH_CUDA, b.ROOT / 'csrc/schemas.cpp', *kernels]\n"
        f"print(b.build(sources, sanitize={mutant.sanitize}))"
    )
    built = subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    environment = {
        **os.environ,
        "SEGKERNEL_LIBRARY": built.stdout.strip().splitlines()[-1],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    if mutant.sanitize:
        libraries = [
            subprocess.check_output(["g++", f"-print-file-name=lib{name}.so"], text=True).strip()
            for name in ("asan", "ubsan")
        ]
        environment["LD_PRELOAD"] = " ".join(libraries)
        environment["ASAN_OPTIONS"] = "detect_leaks=0:verify_asan_link_order=0"
    tests = [f"tests/ops/{name}" for name in mutant.tests]
    command = [sys.executable, "-m", "pytest", "-x", "-v", "-p", "no:cacheprovider", "-m", "not compiles", *tests]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    begun = re.findall(r"^(tests/\S+::\S+)(.*)$", done.stdout, re.MULTILINE)
    failed = [name for name, outcome in begun if "PASSED" not in outcome and "SKIPPED" not in outcome]
    return failed[0].removeprefix("tests/ops/") if failed else "the start of the tests"


def main() -> None:
    chosen = [mutant for mutant in MUTANTS if "".join(sys.argv[1:2]) in mutant.what]
    rows = ["| broken on purpose | sanitizers | caught by |", "| --- | --- | --- |"]
    healthy = set()
    survivors = 0
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_sources(folder)
            control = (mutant.operators, mutant.tests, mutant.sanitize)
            if control not in healthy and (failed := first_failure(mutant, folder)):
                raise SystemExit(f"{failed} fails on the unchanged sources")
            healthy.add(control)
            edit(mutant, folder)
            caught = first_failure(mutant, folder).partition("::")[0]
        survivors += not caught
        rows.append(f"| {mutant.what} | {'yes' if mutant.sanitize else 'no'} | {f'`{caught}`' if caught else 'none'} |")
        print(rows[-1], flush=True)
    print("", *rows, sep="\n")
    if survivors:
        raise SystemExit(f"{survivors} of {len(chosen)} survived")


if __name__ == "__main__":
    main()
