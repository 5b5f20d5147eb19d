"""Invalid tokens, masks, offsets and options: errors name the argument, the expectation and the value."""

import re

import pytest
import torch

import segkernel
from tests.helpers import BACKEND, DEVICE, SCAN_OPS, ScanOp, assert_identical, unchanged

every_op = pytest.mark.parametrize("op", SCAN_OPS, ids=lambda op: op.name)


def call(op: ScanOp, *tokens, rows: int, **arguments):
    with unchanged(*tokens, *arguments.values()):
        op(*tokens, **{**op.options(rows), **arguments})


@every_op
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_tokens_of_other_dtypes_raise(op: ScanOp, dtype: torch.dtype):
    given = str(dtype).removeprefix("torch.")
    tokens = [torch.zeros(2, 3).to(dtype) for _ in op.token_names]
    with pytest.raises(TypeError, match=rf"{op.token_names[0]}: expected .*floating-point.*got {given} \[2, 3\]"):
        call(op, *tokens, rows=2)


@every_op
def test_tokens_in_a_list_raise(op: ScanOp):
    with pytest.raises(TypeError, match=rf"{op.token_names[0]}: expected .*tensor.*got list"):
        call(op, *([[0.0, 1.0]] for _ in op.token_names), rows=1)


@every_op
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 1)])
def test_padded_tokens_without_two_dimensions_raise(op: ScanOp, shape: tuple):
    given = re.escape(f"got float32 {list(shape)}")
    with pytest.raises(ValueError, match=rf"{op.token_names[0]}: expected \[B, T\].*cu_seqlens.*{given}"):
        call(op, *(torch.zeros(shape) for _ in op.token_names), rows=2)


@every_op
def test_packed_tokens_with_two_dimensions_raise(op: ScanOp):
    with pytest.raises(ValueError, match=rf"{op.token_names[0]}: expected .*\[N\].*cu_seqlens.*got float32 \[2, 3\]"):
        call(op, *op.tokens(2, 3), rows=2, cu_seqlens=torch.tensor([0, 3, 6]))


@every_op
@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 2), (2, 3, 1)])
def test_mask_of_another_shape_raises(op: ScanOp, shape: tuple):
    with pytest.raises(ValueError, match=r"mask: expected \[2, 3\].*got bool \["):
        call(op, *op.tokens(2, 3), rows=2, mask=torch.ones(shape, dtype=torch.bool))


@every_op
def test_mask_of_another_type_raises(op: ScanOp):
    with pytest.raises(TypeError, match=r"mask: expected .*tensor, got list"):
        call(op, *op.tokens(2, 3), rows=2, mask=[[1, 1, 1], [1, 1, 1]])
    with pytest.raises(TypeError, match=r"mask: expected .*got complex64 \[2, 3\]"):
        call(op, *op.tokens(2, 3), rows=2, mask=torch.ones(2, 3, dtype=torch.complex64))


@every_op
def test_sparse_tensors_raise(op: ScanOp):
    with pytest.raises(TypeError, match=rf"{op.token_names[0]}: expected .*, got sparse_coo float32 \[2, 3\]"):
        op(*(tokens.to_sparse() for tokens in op.tokens(2, 3)), **op.options(2))
    with pytest.raises(TypeError, match=r"mask: expected .*, got sparse_coo float32 \[2, 3\]"):
        op(*op.tokens(2, 3), torch.ones(2, 3).to_sparse(), **op.options(2))
    for name, value in op.options(2).items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(TypeError, match=rf"{name}: expected .*, got sparse_coo .* \[2\]"):
                op(*op.tokens(2, 3), **{**op.options(2), name: value.to_sparse()})


TOKENS, LABELS = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "arguments", "switches"),
    [
        ("hysteresis", {"rewards": TOKENS, "low": 0.0, "high": 1.0}, ["hold"]),
        ("segment", {"rewards": TOKENS, "delta": 1.0, "sequence_sign": 1.0}, ["hold", "keep_neutral"]),
        ("select_tokens", {"values": TOKENS, "count": 1}, ["largest"]),
        ("token_logprobs", {"logits": TOKENS, "labels": LABELS}, ["entropy", "inplace_backward"]),
        ("linear_token_logprobs", {"hidden": TOKENS, "weight": TOKENS, "labels": LABELS}, ["entropy"]),
    ],
)
@pytest.mark.parametrize("value", ["no", 1, None])
def test_switches_other_than_bools_raise(name: str, arguments: dict, switches: list, value: object):
    for switch in switches:
        given = re.escape(f"got {type(value).__name__} {value!r}")
        with pytest.raises(TypeError, match=rf"^{switch}: expected True or False, {given}$"):
            getattr(segkernel, name)(**arguments, **{switch: value})


@every_op
def test_mixed_devices_raise(op: ScanOp):
    with pytest.raises(ValueError, match=rf"mask: expected .*{DEVICE}.*got bool \[2, 3\] on meta"):
        op(*op.tokens(2, 3), torch.ones(2, 3, dtype=torch.bool, device="meta"), **op.options(2))
    with pytest.raises(ValueError, match=rf"cu_seqlens: expected .*{DEVICE}.*got int64 \[3\] on meta"):
        op(*op.tokens(6), cu_seqlens=torch.tensor([0, 3, 6], device="meta"), **op.options(2))
    for name, value in op.options(2).items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(ValueError, match=rf"{name}: expected .*{DEVICE}.*\[2\] on meta"):
                op(*op.tokens(2, 3), **{**op.options(2), name: value.to("meta")})


@every_op
@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 4, 3, 6], r"cu_seqlens: expected non-decreasing offsets, got 4 then 3"),
        ([0, 2, 3, 5], r"cu_seqlens: expected to end at the number of packed tokens, 6, got 5"),
        ([0, 2, 3, 7], r"cu_seqlens: expected to end at the number of packed tokens, 6, got 7"),
        ([1, 2, 3, 6], r"cu_seqlens: expected to start at 0, got 1"),
        ([-1, 2, 3, 6], r"cu_seqlens: expected to start at 0, got -1"),
    ],
    ids=["decreasing", "too short", "too long", "late start", "negative start"],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_malformed_cu_seqlens_raise(op: ScanOp, offsets: list, message: str, dtype: torch.dtype, value_checks: None):
    with pytest.raises(ValueError, match=message):
        call(op, *op.tokens(6), rows=3, cu_seqlens=torch.tensor(offsets, dtype=dtype))


@every_op
@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU's operators refuse them")
def test_unchecked_cu_seqlens_are_clamped_to_the_tokens(op: ScanOp):
    tokens, options = op.tokens(6), op.options(2)
    far_away = torch.tensor([-(2**40), 3, 2**40])
    expected = op(*tokens, cu_seqlens=torch.tensor([0, 3, 6]), **options)
    assert_identical(op(*tokens, cu_seqlens=far_away, **options), expected)


@every_op
@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU's operators refuse them")
def test_unchecked_cu_seqlens_do_not_affect_later_calls(op: ScanOp):
    """With any offsets a call finishes and writes only to its outputs."""
    N, B = 5000, 16
    tokens, options = op.tokens(N), op.options(B)

    def offsets(*first: int) -> torch.Tensor:
        return torch.tensor([*first, *[N] * (B + 1 - len(first))])

    right = offsets(0, 10, 10, 1500, 1501, 4000, 4999)
    expected = op(*tokens, cu_seqlens=right, **options)
    for wrong in (
        right.flip(0),
        offsets(4096, 0, 4096, 0, 4096, 0),
        offsets(0, 1030, 2050, 0),  # a binary or 32-ary search finds the second tile of the last row, but not the first
        *torch.randint(-1000, N + 1000, (6, B + 1)),
    ):
        op(*tokens, cu_seqlens=wrong, **options)
        assert_identical(op(*tokens, cu_seqlens=right, **options), expected)


@every_op
def test_cu_seqlens_of_another_type_or_shape_raise(op: ScanOp):
    with pytest.raises(TypeError, match=r"cu_seqlens: expected .*int32 or int64.*got float32 \[3\]"):
        call(op, *op.tokens(6), rows=2, cu_seqlens=torch.tensor([0.0, 3.0, 6.0]))
    with pytest.raises(TypeError, match=r"cu_seqlens: expected .*got list"):
        call(op, *op.tokens(6), rows=2, cu_seqlens=[0, 3, 6])
    with pytest.raises(ValueError, match=r"cu_seqlens: expected .*\[B \+ 1\].*got int64 \[1, 3\]"):
        call(op, *op.tokens(6), rows=2, cu_seqlens=torch.tensor([[0, 3, 6]]))
    with pytest.raises(ValueError, match=r"cu_seqlens: expected .*\[B \+ 1\].*got int64 \[0\]"):
        call(op, *op.tokens(0), rows=0, cu_seqlens=torch.zeros(0, dtype=torch.int64))


@every_op
def test_row_parameters_of_another_type_or_shape_raise(op: ScanOp):
    for name, value in op.options(2).items():
        if isinstance(value, torch.Tensor):
            with pytest.raises(ValueError, match=rf"{name}: expected .*\[2\].*got .*\[3\]"):
                call(op, *op.tokens(2, 4), rows=2, **{name: torch.zeros(3, dtype=value.dtype)})
            with pytest.raises(TypeError, match=rf"{name}: expected .*got complex64"):
                call(op, *op.tokens(2, 4), rows=2, **{name: torch.zeros(2, dtype=torch.complex64)})
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            with pytest.raises(TypeError, match=rf"{name}: expected .*got str 'much'"):
                call(op, *op.tokens(2, 4), rows=2, **{name: "much"})
