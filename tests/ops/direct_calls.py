"""Calls every operator directly through `torch.ops.segkernel`, each time with one wrong argument.

`python -m tests.ops.direct_calls` prints JSON lines: the change before each call, and the outcome after it.
A process of its own, so that a crash ends no other test. Valid arguments are those of the calls in test_cuda.CALLS; the
changes follow from the types in the schemas, so that a new operator in CALLS is covered.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

import segkernel
from segkernel.ops.linear_token_logprobs import _forward, _gradients
from tests.ops.test_cuda import CALLS, make_inputs
from tests.ops.test_fake_cuda import Recorder

CALLS_PER_OPERATOR = 2
V = 67  # small, for thousands of calls
# AttributeError: of operators written in Python; AssertionError: of torch's fake tensors.
ERRORS = (ValueError, TypeError, RuntimeError, IndexError, MemoryError, AttributeError, AssertionError)
INT64_MIN = -(2**63)
# Operators whose implementations call other operators.
WRITTEN_IN_PYTHON = {
    "segkernel::linear_token_logprobs": _forward,
    "segkernel::linear_token_logprobs_backward": _gradients,
}


class Change(NamedTuple):
    name: str
    make: Callable[[Any], Any]  # from a valid argument, or None, to a wrong one
    must_raise: bool  # for every argument; other changes may leave a valid call


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _extended(x: Tensor) -> Tensor:
    return torch.cat([x.reshape(-1), x.reshape(-1)[:1]])


def _of_tensor(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """A change of an absent or empty tensor starts from one whose shape fits no parameter."""

    def make(value: Any) -> Any:
        if value is None or value.numel() == 0:
            value = torch.ones(2, 3, 5, dtype=torch.float32 if value is None else value.dtype)
        return change(value)

    return make


TENSOR = (
    Change("list", lambda value: [[1.0]], True),
    Change("string", lambda value: "a", True),
    Change("complex64", _of_tensor(lambda x: x.to(torch.complex64)), True),
    Change("float8", _of_tensor(lambda x: x.float().to(torch.float8_e4m3fn)), True),
    Change("uint16", _of_tensor(lambda x: torch.zeros(x.shape, dtype=torch.uint16)), True),
    Change("sparse", _of_tensor(lambda x: x.to_sparse()), True),
    Change("fake", _of_tensor(lambda x: FakeTensorMode().from_tensor(x)), True),
    Change("meta", _of_tensor(lambda x: x.to("meta")), True),
    Change("2^40 elements, stride 0", _of_tensor(lambda x: x.reshape(-1)[:1].expand(2**40)), True),
    *(
        Change(str(dtype).removeprefix("torch."), _of_tensor(lambda x, dtype=dtype: x.to(dtype)), False)
        for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8, torch.bool)
    ),
    Change("one element more", _of_tensor(_extended), True),
    Change("one element less", _of_tensor(lambda x: x.reshape(-1)[:-1].clone()), True),
    Change("no elements", _of_tensor(lambda x: x.reshape(-1)[:0].clone()), True),
    Change("no dimensions", _of_tensor(lambda x: x.reshape(-1)[0].clone()), True),
    Change("one row more", _of_tensor(lambda x: torch.cat([x, x[:1]])), True),
    Change("one column less", _of_tensor(lambda x: x[..., :-1].clone()), False),
    Change("one dimension more", _of_tensor(lambda x: x[None].clone()), False),
    Change("one dimension less", _of_tensor(lambda x: x.reshape(-1).clone()), False),
    Change("not contiguous", _of_tensor(_strided), False),
    Change("every element -1", _of_tensor(lambda x: torch.full_like(x, -1)), False),
    Change("every element huge", _of_tensor(lambda x: x.new_full(x.shape, _huge(x.dtype))), False),
    Change("every element lowest", _of_tensor(lambda x: x.new_full(x.shape, _lowest(x.dtype))), False),
    Change("random elements", _of_tensor(lambda x: (1000 * torch.randn(x.shape)).to(x.dtype)), False),
)
NUMBER = (
    Change("string", lambda value: "a", True),
    Change("list", lambda value: [1.0], True),
    Change("tensor [2]", lambda value: torch.ones(2), True),
)
BY_TYPE: dict[str, tuple[Change, ...]] = {
    "Tensor": TENSOR,
    "float": (
        *NUMBER,
        *(Change(str(x), lambda value, x=x: x, False) for x in (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300)),
    ),
    "int": (
        *NUMBER,
        Change("1.5", lambda value: 1.5, True),
        Change("2^63", lambda value: 2**63, True),
        *(Change(str(x), lambda value, x=x: x, False) for x in (-1, 300, 2**40, 2**62, INT64_MIN, INT64_MIN + 1)),
    ),
    "bool": (*NUMBER, Change("1.5", lambda value: 1.5, False)),
}
ABSENT = Change("None", lambda value: None, False)
MISSING = Change("None", lambda value: None, True)


def _huge(dtype: torch.dtype) -> float:
    return 1 if dtype is torch.bool else math.inf if dtype.is_floating_point else torch.iinfo(dtype).max


def _lowest(dtype: torch.dtype) -> float:
    return 0 if dtype is torch.bool else -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def gradient_in_place(x: dict[str, Tensor]) -> None:
    leaf = x["logits"].clone().requires_grad_()
    logits = 1 * leaf
    segkernel.token_logprobs(logits, x["labels"], x["kept"], entropy=True, inplace_backward=True)[0].sum().backward()


def divergence_gradient_in_place(x: dict[str, Tensor]) -> None:
    logits = 1 * x["logits"].clone().requires_grad_()
    out = segkernel.token_divergences(logits, x["other_logits"], x["kept"], x["labels"], inplace_backward=True)
    sum((values.sum() for values in (out.divergence, out.entropy, out.logprobs)), torch.zeros(())).backward()


def operators() -> list[str]:
    """The registered operators that take arguments, with their overloads."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("segkernel::")]
    return sorted(name for name in names if _overload(name)._schema.arguments)


def _overload(name: str) -> Any:
    name, _, overload = name.removeprefix("segkernel::").partition(".")
    return getattr(getattr(torch.ops.segkernel, name), overload or "default")


def valid_calls() -> dict[str, list[tuple[Any, ...]]]:
    """Arguments of up to CALLS_PER_OPERATOR different calls of each operator."""
    calls: dict[str, list[tuple[Any, ...]]] = {}

    def record(function: Callable[..., object], *arguments: Any) -> None:
        with Recorder() as recorder:
            function(*arguments)
        for operator, args, _ in recorder.calls:
            known = calls.setdefault(operator.name().removesuffix(".default"), [])
            present = [[argument is None for argument in arguments] for arguments in known]
            if len(known) < CALLS_PER_OPERATOR and [argument is None for argument in args] not in present:
                known.append(_copied(args))

    for name, call in CALLS.items():
        if name != "topk_divergence, gradient":  # whose operators are those of token_logprobs
            record(call, segkernel, make_inputs("cpu", V=V))
    record(gradient_in_place, make_inputs("cpu", V=V))
    record(divergence_gradient_in_place, make_inputs("cpu", V=V))
    for name, implementation in WRITTEN_IN_PYTHON.items():
        record(implementation, *_copied(calls[name][0]))
    return calls


def _copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tree_map_only(Tensor, lambda x: x.detach().clone(), arguments)


def changes(argument: Any) -> Iterator[Change]:
    kind = str(argument.type)  # "float", "Optional[float]"
    yield ABSENT if kind.startswith("Optional") or kind == "bool" else MISSING
    yield from BY_TYPE[kind.removeprefix("Optional[").removesuffix("]")]


def outcome_of(operator: Any, arguments: tuple[Any, ...]) -> str:
    try:
        output = operator(*arguments)
    except ERRORS as error:
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    # Reading the results shows a sanitizer any that were never allocated.
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    where = {tensor.device.type for tensor in tensors}
    if where <= {"cpu"}:
        for tensor in tensors:
            tensor.clone()
        return "returned"
    return "returned on " + ", ".join(sorted(where))


def run(operator: str, calls: list[tuple[Any, ...]]) -> None:
    overload = _overload(operator)
    for number, valid in enumerate(calls):
        for position, argument in enumerate(overload._schema.arguments):
            for change in changes(argument):
                named = {"operator": operator, "call": number, "argument": argument.name, "change": change.name}
                print(json.dumps(named), flush=True)
                arguments = list(_copied(valid))
                arguments[position] = change.make(arguments[position])
                outcome = outcome_of(overload, tuple(arguments))
                print(json.dumps({**named, "must_raise": change.must_raise, "outcome": outcome}), flush=True)
        print(json.dumps({"operator": operator, "call": number, "outcome": outcome_of(overload, _copied(valid))}))


def limit_memory(extra: int = 8 << 30) -> None:
    """Makes absurd allocations fail. AddressSanitizer, which reserves terabytes, limits allocations by itself."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    if now < 1 << 40:
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))


def main() -> None:
    torch.manual_seed(0)
    calls = valid_calls()
    limit_memory()
    for operator in sys.argv[1:] or operators():
        run(operator, calls.get(operator, []))


if __name__ == "__main__":
    main()
