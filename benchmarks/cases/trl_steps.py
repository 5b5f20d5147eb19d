"""Training steps of TRL's trainers with its own LM head, with segkernel's, and with parts of it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cases.case import Case
from benchmarks.cases.machine import Machine, Steps
from benchmarks.targets import OURS
from segkernel import integrations

PEERS = Path(__file__).parents[2] / "build" / "peers" / "trl"
TRL, NO_HEAD = "TRL", "without the LM head"
PRODUCTS, ALL_PRODUCTS = "matrix products of scored tokens", "matrix products of all tokens"
# Outputs of the LM head that the trainers of TRL 1.16 request.
OUTPUTS = {
    "DPO": ("log_probs", "entropy", "mean_logits", "is_top1"),
    "GRPO": ("log_probs", "entropy"),
    "SFT": ("log_probs", "entropy", "is_top1"),
}

Head = Mapping[str, Any]  # objects by their names in `trl.trainer.utils`


class Batch(NamedTuple):
    """Ids, attention mask and labels `[B, T]`."""

    ids: Tensor
    attention: Tensor
    labels: Tensor


def trl_steps(machine: Machine) -> Iterator[Case]:
    """Forward and backward pass with all completion tokens in the loss, and with a quarter; for DPO with the reference.

    The model has the architecture of SmolLM2-135M, and random weights in bfloat16.
    """
    sizes = machine.shapes.steps
    try:
        heads = lm_heads()
        model = random_model(sizes, machine.device)
    except ImportError:  # TRL, or transformers
        names: Mapping[str, Any] = dict.fromkeys((OURS, TRL, NO_HEAD))
        yield from (Case(work(trainer, kept, sizes), names) for trainer in OUTPUTS for kept in (1.0, 0.25))
        return
    forward = model.forward
    for trainer, outputs in OUTPUTS.items():
        model.forward = forward
        utils().add_fused_lm_head(model, outputs=outputs)
        for kept in (1.0, 0.25):
            inputs = batch(sizes, kept, machine.device)
            reference = trainer == "DPO"
            yield Case(
                work(trainer, kept, sizes),
                {name: partial(step, model, inputs, heads[name], reference=reference) for name in (OURS, TRL, NO_HEAD)},
                check=partial(check, model, inputs, heads),
                before=partial(model.zero_grad, set_to_none=True),
                slow=(OURS, TRL, NO_HEAD),
                caller_bytes=sum(parameter.nbytes for parameter in model.parameters()),
            )


def work(trainer: str, kept: float, sizes: Steps) -> str:
    """Name of a row."""
    length = sizes.prompt + sizes.completion
    return f"TRL {trainer} step, {kept:.0%} of completion tokens, bf16 [{sizes.rows}, {length}], V={sizes.vocabulary}"


def random_model(sizes: Steps, device: str) -> Any:
    """Language model of SmolLM2's architecture."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.width * 8 // 3,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.width // 64,
        num_key_value_heads=sizes.width // 192,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).to(device, torch.bfloat16)


def batch(sizes: Steps, kept: float, device: str = "cpu") -> Batch:
    """Half of the completions of full length and half of half of it, with a random share of their tokens kept."""
    generator = torch.Generator().manual_seed(0)
    rows, length = sizes.rows, sizes.prompt + sizes.completion
    ids = torch.randint(sizes.vocabulary, (rows, length), generator=generator)
    attention = torch.ones_like(ids)
    attention[rows // 2 :, sizes.prompt + sizes.completion // 2 :] = 0
    completion = attention.bool()
    completion[:, : sizes.prompt] = False
    completion = completion & (torch.rand(ids.shape, generator=generator) < kept)
    return Batch(ids.to(device), attention.to(device), ids.masked_fill(~completion, -100).to(device))


def step(model: Any, inputs: Batch, head: Head, *, reference: bool) -> None:
    """Forward and backward pass; with `reference`, another forward pass without gradients first."""
    if reference:
        with torch.no_grad():
            logprobs(model, inputs, head)
    logprobs(model, inputs, head).sum().backward()


def logprobs(model: Any, inputs: Batch, head: Head) -> Tensor:
    """Log-probs of the labels `[B, T - 1]`, 0 where there is none."""
    module = utils()
    theirs = {name: getattr(module, name) for name in head}
    vars(module).update(head)
    try:
        outputs = model(inputs.ids, attention_mask=inputs.attention, labels=inputs.labels, fused_lm_head=True)
        found: Tensor = outputs.log_probs
        return found
    finally:
        vars(module).update(theirs)


def check(model: Any, inputs: Batch, heads: Mapping[str, Head]) -> None:
    """Assert that log-probs with segkernel's head are those with TRL's."""
    with torch.no_grad():
        ours, theirs = (logprobs(model, inputs, heads[name]) for name in (OURS, TRL))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.05)


def utils() -> Any:
    """TRL's module of the LM head.

    Raises:
        ImportError: TRL is not installed, neither in the environment nor by `make peers`.
    """
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    return importlib.import_module("trl.trainer.utils")


def lm_heads() -> dict[str, Head]:
    """LM heads by name: the functions that TRL looks up in its module."""
    module = utils()
    names = ("_ChunkedLogProbFunction", "_use_triton")
    theirs = {name: getattr(module, name) for name in names}
    with integrations.patched("trl") as report:
        ours = {name: getattr(module, name) for name in names}
    if report.kept:
        raise RuntimeError(f"TRL's LM head cannot be replaced: {report.kept}")

    def scores_labels(device: torch.device) -> bool:
        return True

    return {
        OURS: ours,
        TRL: theirs,
        NO_HEAD: {"_ChunkedLogProbFunction": applied(no_head), "_use_triton": scores_labels},
        PRODUCTS: {"_ChunkedLogProbFunction": Products, "_use_triton": scores_labels},
        ALL_PRODUCTS: {"_ChunkedLogProbFunction": Products, "_use_triton": theirs["_use_triton"]},
    }


def applied(function: Callable[..., Any]) -> Any:
    return type("Applied", (), {"apply": staticmethod(function)})


def no_head(hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
    """Sums of the hidden states in the place of the log-probs."""
    return per_token(hidden.float().sum(-1))


def per_token(value: Tensor) -> tuple[Tensor, ...]:
    """One value per token as all outputs of the head."""
    constant = value.detach()
    return value, constant, constant, constant, constant > 0


class Products:
    """Head of the three matrix products that every LM head needs, without the log-probs."""

    @staticmethod
    def apply(hidden: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return per_token(MatrixProducts.apply(hidden, weight))


class MatrixProducts(torch.autograd.Function):
    """Logits of the first token; the backward pass takes all logits for their gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        logits = hidden @ weight.T
        ctx.save_for_backward(hidden, weight, logits)
        return logits[:, 0].float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        hidden, weight, logits = ctx.saved_tensors
        return logits @ weight, logits.T @ hidden
