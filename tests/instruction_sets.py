"""What the vectorised kernels give for a fixed set of inputs, written to a file: `python instruction_sets.py FILE`."""

import sys

import torch
from helpers import DTYPES, LENGTHS, SCAN_OPS, random_batch
from logprob_helpers import TRANSFORMS, VOCABULARIES, random_labels, random_logits
from torch import Tensor

import segkernel


def scan_outputs() -> dict[str, object]:
    outputs = {}
    for op in SCAN_OPS:
        for dtype in DTYPES:
            for T in LENGTHS:
                batch = random_batch(T)
                options = op.options(len(batch.lengths))
                tokens = [batch.poison(values) for values in op.tokens(*batch.mask.shape, dtype=dtype)]
                outputs[f"{op.name} {dtype} {T}"] = op(*tokens, batch.mask, **options)
                outputs[f"{op.name} {dtype} {T} no mask"] = op(*op.tokens(9, T, dtype=dtype), **options)
    return outputs


def logprob_outputs() -> dict[str, tuple[Tensor, ...]]:
    """Log-probabilities, entropies and the gradient of their sum."""
    outputs = {}
    for dtype in DTYPES:
        for V in VOCABULARIES:
            for transform in TRANSFORMS:
                logits, labels = random_logits(5, V, dtype=dtype).requires_grad_(), random_labels(5, V=V)
                outs = segkernel.token_logprobs(logits, labels, entropy=True, **transform)
                (gradient,) = torch.autograd.grad(outs[0].sum() + outs[1].sum(), logits)
                outputs[f"{dtype} {V} {transform}"] = (outs[0].detach(), outs[1].detach(), gradient)
    return outputs


def all_outputs() -> dict[str, object]:
    torch.manual_seed(0)
    outputs: dict[str, object] = {"scan": scan_outputs(), "logprobs": logprob_outputs()}
    return {**outputs, "isa": torch.ops.segkernel.cpu_isa()}


if __name__ == "__main__":
    torch.save(all_outputs(), sys.argv[1])
