"""Direct calls of the operators, past the checks of the Python wrappers: wrong arguments raise, no call crashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import segkernel
from tests.helpers import BACKEND
from tests.ops import direct_calls

ROOT = Path(__file__).parents[2]
ANY_SIZE = {"one element more", "one element less", "no elements", "no dimensions", "one row more"}
ANY_DTYPE = {"complex64", "float8", "uint16"}
# Changes after which the arguments are still valid, though the change is a wrong one for other arguments.
VALID = {
    # The only tensor of the call.
    ("segment", "rewards"): {"one row more", "fake", "meta"},
    ("segment_by_mask", "mask"): {"one row more", "fake", "meta"},
    ("_linear_token_logprobs_valid", "labels"): ANY_SIZE,
    # [n, 4] for any n.
    ("_linear_token_logprobs_finish", "state"): {"no elements", "one row more"},
    # Only the dtype is used.
    ("_linear_token_logprobs_finish", "like"): ANY_SIZE | {"2^40 elements, stride 0"},
    # A larger vocabulary.
    ("linear_token_logprobs", "weight"): {"one row more"},
    ("linear_token_logprobs_backward", "weight"): {"one row more"},
    # Converted to float64.
    ("linear_token_logprobs_backward", "grad_logprobs"): ANY_DTYPE,
    ("linear_token_logprobs_backward", "grad_entropy"): ANY_DTYPE,
    ("linear_token_logprobs_backward", "lse"): ANY_DTYPE,
    # Not used without `grad_entropy`.
    **{
        (operator, "entropy"): {"None", "2^40 elements, stride 0"} | ANY_SIZE | ANY_DTYPE
        for operator in (
            "_linear_token_logprobs_gradient_",
            "linear_token_logprobs_backward",
            "token_logprobs_backward_",
        )
    },
}
OUT_OF_RANGE = {"-1", "300", "1099511627776", "4611686018427387904", str(-(2**63)), str(-(2**63) + 1)}
# Values that raise, by argument.
BAD_VALUES = {
    "reduce": OUT_OF_RANGE,
    "kind": OUT_OF_RANGE,
    "beta": {"nan", "inf", "-inf", "-1.0", "0.0", "1e+300"},
    "how": OUT_OF_RANGE,
    "initial": OUT_OF_RANGE - {"-1"},
    "num_segments": {"-1", str(-(2**63)), "1099511627776", "4611686018427387904"},
    "temperature": {"nan", "-inf", "-1.0", "0.0"},
    "logit_scale": {"nan", "-inf", "-1.0", "0.0"},
    "softcap": {"nan", "-inf", "-1.0", "0.0"},
    "fraction": {"nan", "inf", "-inf", "-1.0", "1e+300"},
    "count": {"-1", str(-(2**63)), str(-(2**63) + 1)},
}
# Values of tensors, which CUDA's operators do not check.
BAD_ELEMENTS = {
    "labels": {"every element -1", "every element huge", "every element lowest"},
    "cu_seqlens": {"every element -1", "every element huge", "every element lowest", "random elements"},
    "row_initial": {"every element huge", "every element lowest"},
    "row_threshold": {"every element -1"},
    "row_fraction": {"every element -1", "every element huge", "every element lowest"},
    "row_count": {"every element -1", "every element lowest"},
}


def results() -> list[dict[str, Any]]:
    """All calls, made in a process of their own with the segkernel of this one."""
    home = Path(segkernel.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{ROOT}"}
    if "ASAN_OPTIONS" in environment:
        environment["ASAN_OPTIONS"] += ":allocator_may_return_null=1:max_allocation_size_mb=4096"
    command = [sys.executable, "-W", "ignore", "-m", "tests.ops.direct_calls"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr[-4000:]}\nended with {done.returncode} in {lines[-1:]}"
    return [line for line in lines if "outcome" in line]


def must_raise(result: dict[str, Any]) -> bool:
    operator, argument, change = (result[key] for key in ("operator", "argument", "change"))
    if change in VALID.get((operator, argument), set()):
        return False
    if BACKEND != "cpu" and argument in ("cu_seqlens", "rewards") and change in ANY_SIZE:
        return False  # CUDA's operators do not compare the values of offsets with the number of packed tokens
    bad = BAD_VALUES.get(argument, set()) if not operator.startswith("redistribute") else set()
    if BACKEND == "cpu" and not operator.startswith("_linear"):
        bad = bad | BAD_ELEMENTS.get(argument, set())
    return result["must_raise"] or change in bad


def test_direct_calls_with_a_wrong_argument_raise() -> None:
    valid: list[Any] = []
    wrong: list[Any] = []
    for result in results():
        result["operator"] = result["operator"].removeprefix("segkernel::")
        (wrong if "change" in result else valid).append(result)
    # Also after the wrong calls.
    assert {result["outcome"] for result in valid} == {"returned"}
    covered = {f"segkernel::{result['operator']}" for result in wrong}
    assert covered == set(direct_calls.operators()), "operators that no call of test_cuda.CALLS reaches"
    silent = defaultdict(set)
    for result in wrong:
        if result["outcome"].startswith("returned") and must_raise(result):
            silent[result["operator"], result["argument"]].add(result["change"])
    assert not silent
