"""Scores of response tokens by frozen language models."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import response_logprobs


def finite_logprobs(name: str, model: nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities of a batch's response tokens under a model, `[rows, T]`, 0 at other tokens.

    Raises:
        ValueError: one of them is not finite; the message names the model `name`.
    """
    logprobs = response_logprobs(model, batch)
    if not logprobs.isfinite().all():
        raise ValueError(f"{name}: expected finite log-probabilities, got NaN or infinity for a response of the data")
    return logprobs


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode, and in their own modes afterwards."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
