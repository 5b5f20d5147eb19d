"""Properties that all operators over the tokens of rows share."""

import pytest
import torch
from torch import Tensor

from tests.helpers import SCAN_OPS, ScanOp, assert_identical, assert_near, leaves, opcheck, random_batch, unchanged

every_op = pytest.mark.parametrize("op", SCAN_OPS, ids=lambda op: op.name)


def row_of(options: dict, b: int) -> dict:
    """The options of row `b` only."""
    return {name: value[b : b + 1] if isinstance(value, Tensor) else value for name, value in options.items()}


@every_op
def test_masked_values_do_not_affect_outputs(op: ScanOp):
    batch = random_batch(65)
    options = op.options(len(batch.lengths))
    tokens = op.tokens(*batch.mask.shape)
    plain = op(*tokens, batch.mask, **options)
    for poison in (float("nan"), float("inf"), -1e30):
        poisoned = [values.masked_fill(~batch.mask, poison) for values in tokens]
        assert_identical(op(*poisoned, batch.mask, **options), plain)


@every_op
def test_mask_none_means_all_valid(op: ScanOp):
    options = op.options(4)
    tokens = op.tokens(4, 33)
    assert_identical(op(*tokens, **options), op(*tokens, torch.ones(4, 33, dtype=torch.bool), **options))


@every_op
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64]
)
def test_mask_of_any_dtype_counts_nonzero_as_valid(op: ScanOp, dtype: torch.dtype):
    batch = random_batch(65)
    options = op.options(len(batch.lengths))
    tokens = op.tokens(*batch.mask.shape)
    expected = op(*tokens, batch.mask, **options)
    mask = batch.mask.to(dtype) * (0.25 if dtype.is_floating_point else 2)  # nonzero is valid, not only 1
    assert_identical(op(*tokens, mask.to(dtype), **options), expected)


@every_op
def test_cu_seqlens_of_both_dtypes_agree(op: ScanOp):
    batch = random_batch(65)
    options = op.options(len(batch.lengths))
    tokens = [batch.pack(values) for values in op.tokens(*batch.mask.shape)]
    expected = op(*tokens, cu_seqlens=batch.cu_seqlens, **options)
    assert_identical(op(*tokens, cu_seqlens=batch.cu_seqlens.long(), **options), expected)


@pytest.mark.parametrize("op", [op for op in SCAN_OPS if not op.differentiable], ids=lambda op: op.name)
@pytest.mark.filterwarnings("error")
def test_outputs_are_constants_to_autograd(op: ScanOp):
    tokens = [values.requires_grad_() for values in op.tokens(4, 33)]
    outputs = leaves(op(*tokens, **op.options(4)))
    assert not any(out.requires_grad for out in outputs)
    (tokens[0] * outputs[0]).sum().backward()
    assert_identical(tokens[0].grad, outputs[0].to(tokens[0].dtype))


@every_op
def test_empty_batch_gives_empty_outputs(op: ScanOp):
    for out in leaves(op(*op.tokens(0, 7), **op.options(0))):
        assert out.shape[0] == 0
    nothing = op(*op.tokens(0), cu_seqlens=torch.tensor([0]), **op.options(0))
    assert [out.numel() for out in leaves(nothing)] == [0] * len(leaves(nothing))


@every_op
def test_strided_inputs_match_contiguous_ones(op: ScanOp):
    tokens, mask = op.tokens(6, 40), torch.rand(6, 40) < 0.7
    expected = op(*tokens, mask, **op.options(6))

    def strided(values: Tensor) -> Tensor:
        """The same values as every other column of a column-major matrix."""
        spread = torch.zeros(80, 6, dtype=values.dtype)
        spread[::2] = values.T
        return spread.T[:, ::2]

    assert_identical(op(*map(strided, tokens), strided(mask), **op.options(6)), expected)

    options = {  # every other element of a vector
        name: torch.stack([value, value + 1], 1)[:, 0] if isinstance(value, Tensor) else value
        for name, value in op.options(6).items()
    }
    assert_identical(op(*tokens, mask, **options), expected)


@every_op
def test_row_parameters_of_any_float_dtype_agree(op: ScanOp):
    """Options per row may have any floating dtype; these values are exact in all of them."""
    options = {
        name: (value * 8).round() / 8 if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in op.options(6).items()
    }
    tokens = op.tokens(6, 40)
    expected = op(*tokens, **options)
    for dtype in (torch.float64, torch.bfloat16):
        converted = {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in options.items()
        }
        assert_identical(op(*tokens, **converted), expected)


@every_op
def test_thread_count_does_not_change_bits(op: ScanOp, threads: None):
    tokens, mask = op.tokens(40, 3000, dtype=torch.bfloat16), torch.rand(40, 3000) < 0.7
    outs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(op(*tokens, mask, **op.options(40)))
    assert_identical(outs[1], outs[0])


@every_op
@pytest.mark.parametrize("T", [17, 257])
def test_batch_composition_does_not_change_bits(op: ScanOp, T: int):
    batch = random_batch(T)
    B = len(batch.lengths)
    options, mask = op.options(B), batch.mask
    tokens = [batch.poison(values) for values in op.tokens(B, T)]
    together = leaves(op(*tokens, mask, **options))
    starts = batch.cu_seqlens.tolist()
    packed = leaves(
        op(*map(batch.pack, tokens), batch.pack(mask), cu_seqlens=batch.cu_seqlens, **options)
    )  # fmt: skip
    for b in range(B):
        single = leaves(op(*(values[b : b + 1] for values in tokens), mask[b : b + 1], **row_of(options, b)))
        assert_identical(tuple(single), tuple(out[b : b + 1] for out in together))

        length = batch.lengths[b]
        single = leaves(
            op(
                *(values[b, :length] for values in tokens),
                mask[b, :length],
                cu_seqlens=torch.tensor([0, length]),
                **row_of(options, b),
            )
        )
        in_the_batch = [out[b : b + 1] if len(out) == B else out[starts[b] : starts[b + 1]] for out in packed]
        assert_identical(tuple(single), tuple(in_the_batch))


@every_op
def test_rows_of_several_tiles_match_the_reference(op: ScanOp):
    """The rows are several times as long as a tile of the CUDA kernels."""
    tokens, mask = op.tokens(2, 5000, dtype=torch.float64), torch.rand(2, 5000) < 0.9
    mask[1, 1000:4500] = False
    assert_near(op(*tokens, mask, **op.options(2)), op.reference(*tokens, mask, **op.options(2)))


@every_op
def test_inputs_are_not_modified(op: ScanOp):
    batch = random_batch(65)
    tokens, options = op.tokens(*batch.mask.shape), op.options(len(batch.lengths))
    with unchanged(*tokens, batch.mask, *options.values()):
        op(*tokens, batch.mask, **options)


@every_op
def test_opcheck_passes(op: ScanOp):
    batch = random_batch(17)
    tokens, options = op.tokens(*batch.mask.shape), op.options(len(batch.lengths))
    opcheck(lambda: op(*tokens, batch.mask, **options))
    packed = [batch.pack(values) for values in tokens]
    opcheck(lambda: op(*packed, batch.pack(batch.mask), cu_seqlens=batch.cu_seqlens, **options))
    opcheck(lambda: op(*op.tokens(2, 5, dtype=torch.float64), **op.options(2)))


@pytest.mark.compiles
@every_op
def test_scan_operators_compile_as_one_graph(op: ScanOp):
    torch.compiler.reset()
    batch = random_batch(65)
    tokens, options = op.tokens(*batch.mask.shape), op.options(len(batch.lengths))
    compiled = torch.compile(lambda *args, **kwargs: op(*args, **kwargs), fullgraph=True, backend="aot_eager")
    assert_identical(compiled(*tokens, batch.mask, **options), op(*tokens, batch.mask, **options))
    # Another length, which makes the size dynamic.
    longer, mask = op.tokens(9, 130), torch.rand(9, 130) < 0.5
    assert_identical(compiled(*longer, mask, **options), op(*longer, mask, **options))
    packed = {"mask": batch.pack(batch.mask), "cu_seqlens": batch.cu_seqlens, **options}
    tokens = [batch.pack(values) for values in tokens]
    assert_identical(compiled(*tokens, **packed), op(*tokens, **packed))
