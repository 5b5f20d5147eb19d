import re

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, LENGTHS, assert_identical, opcheck, random_batch


def test_segment_by_mask_literals():
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    ids, counts = segkernel.segment_by_mask(mask)
    assert ids.tolist() == [[0, 0, -1, 1, -1, 2], [-1] * 6, [-1, 0, 0, 0, -1, -1], [0] * 6]
    assert counts.tolist() == [3, 0, 1, 1]
    assert (ids.dtype, counts.dtype) == (torch.int32, torch.int32)


def test_segment_by_mask_starts_a_run_at_every_packed_row():
    mask = torch.tensor([1, 1, 1, 0, 1])
    ids, counts = segkernel.segment_by_mask(mask, cu_seqlens=torch.tensor([0, 2, 2, 5]))
    assert ids.tolist() == [0, 0, 0, -1, 1]
    assert counts.tolist() == [1, 0, 2]


@pytest.mark.parametrize("T", [*LENGTHS, 5000])
def test_segment_by_mask_equals_its_reference(T: int):
    batch = random_batch(T)
    expected = reference.segment_by_mask(batch.mask)
    actual = segkernel.segment_by_mask(batch.mask)
    assert_identical(actual, expected)
    packed = segkernel.segment_by_mask(batch.pack(batch.mask), cu_seqlens=batch.cu_seqlens)
    assert_identical(packed, (batch.pack(expected[0]), expected[1]))
    assert_identical(segkernel.segment_by_mask(0.5 * batch.mask), expected)  # nonzero is valid
    assert_identical(segkernel.segment_by_mask(batch.mask.T.contiguous().T), expected)


@pytest.mark.compiles
def test_segment_by_mask_passes_opcheck_and_compiles_as_one_graph():
    batch = random_batch(17)
    padded, packed = (batch.mask, None), (batch.pack(batch.mask), batch.cu_seqlens)
    torch.compiler.reset()
    compiled = torch.compile(segkernel.segment_by_mask, fullgraph=True, backend="aot_eager")
    for mask, cu_seqlens in (padded, packed):
        opcheck(lambda mask=mask, cu_seqlens=cu_seqlens: segkernel.segment_by_mask(mask, cu_seqlens=cu_seqlens))
        assert_identical(compiled(mask, cu_seqlens=cu_seqlens), segkernel.segment_by_mask(mask, cu_seqlens=cu_seqlens))


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU's operators refuse them")
def test_segment_by_mask_of_unchecked_cu_seqlens_does_not_affect_later_calls():
    mask, right = torch.rand(5000) < 0.7, torch.tensor([0, 10, 10, 1500, 1501, 4999, 5000])
    expected = segkernel.segment_by_mask(mask, cu_seqlens=right)
    for wrong in (right.flip(0), torch.tensor([0, 1030, 2050, 0, 5000, 5000, 5000]), right * 2**30 - 7):
        segkernel.segment_by_mask(mask, cu_seqlens=wrong)
        assert_identical(segkernel.segment_by_mask(mask, cu_seqlens=right), expected)


def test_segment_by_mask_refuses_what_is_no_mask(value_checks: None):
    for mask, given in (([[1, 0]], "list [[1, 0]]"), (torch.ones(1, 2, dtype=torch.complex64), "complex64 [1, 2]")):
        with pytest.raises(TypeError, match=rf"^mask: expected a bool or numeric tensor, got {re.escape(given)}"):
            segkernel.segment_by_mask(mask)
    with pytest.raises(
        ValueError, match=r"^mask: expected \[B, T\], or \[N\] together with cu_seqlens, got int64 \[2\]"
    ):
        segkernel.segment_by_mask(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"^mask: expected packed \[N\] together with cu_seqlens, got int64 \[1, 2\]"):
        segkernel.segment_by_mask(torch.tensor([[1, 0]]), cu_seqlens=torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"^cu_seqlens: expected to end at the number of packed tokens, 2, got 3$"):
        segkernel.segment_by_mask(torch.tensor([1, 0]), cu_seqlens=torch.tensor([0, 3]))
