"""Masked rows of logits in protected memory (PROT_NONE): a read of them kills the process."""

import subprocess
import sys

import pytest

from tests.helpers import BACKEND

# Every row of logits is whole pages. Rows 1 and 3 are masked, row 4 by its label.
PROGRAM = """
import ctypes, mmap
import numpy, torch
import segkernel


def check(dtype, pages):
    row_bytes, rows = pages * mmap.PAGESIZE, 6
    memory = mmap.mmap(-1, rows * row_bytes)
    logits = torch.from_numpy(numpy.frombuffer(memory, dtype=numpy.uint8)).view(dtype).view(rows, -1)
    logits.copy_(torch.randn(logits.shape))
    readable = logits.clone()
    labels = torch.tensor([0, 1, 2, 3, -100, logits.shape[1] - 1])
    mask = torch.tensor([1, 0, 1, 0, 1, 1])
    libc = ctypes.CDLL(None, use_errno=True)
    for row in (1, 3, 4):
        assert libc.mprotect(ctypes.c_void_p(logits[row].data_ptr()), row_bytes, 0) == 0  # PROT_NONE

    outputs = ("entropy", "sum_squares", "mean_logit", "is_argmax")
    found = segkernel.token_logprobs(logits.requires_grad_(), labels, mask, outputs=outputs)
    expected = segkernel.token_logprobs(readable.requires_grad_(), labels, mask, outputs=outputs)
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours, theirs), (ours, theirs)
    sum(out.sum() for out in found[:2]).backward()
    sum(out.sum() for out in expected[:2]).backward()
    assert torch.equal(logits.grad, readable.grad)
    assert not logits.grad[[1, 3, 4]].any() and logits.grad[[0, 2, 5]].any()
    several = segkernel.token_logprobs(logits, torch.stack([labels, labels], -1), mask)
    assert torch.equal(several, torch.stack([found[0], found[0]], -1))
    sums = segkernel.sequence_logprobs(logits[None], labels[None], mask[None])
    assert torch.allclose(sums, found[0].sum()[None])

    # Divergences: the rows of both models are protected.
    divergence = segkernel.token_divergences(logits, logits.detach(), mask, labels, kind="js").divergence
    assert not divergence[[1, 3, 4]].any()
    divergence.sum().backward()


for case in ((torch.float32, 1), (torch.bfloat16, 5), (torch.float64, 1)):
    check(*case)
    print(*case, flush=True)
"""


@pytest.mark.skipif(BACKEND == "cuda", reason="a GPU's memory cannot be protected from the host")
def test_masked_logits_are_not_read() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    passed = "torch.float32 1\ntorch.bfloat16 5\ntorch.float64 1\n"
    assert (done.returncode, done.stdout) == (0, passed), done.stderr
