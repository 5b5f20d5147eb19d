"""Credit per segment in TRL's `GRPOTrainer`, whose own advantages are one scalar per completion."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segkernel import _validate
from segkernel.ops.group_normalize import group_normalize
from segkernel.ops.redistribute import redistribute
from segkernel.ops.segment import segment
from segkernel.ops.segment_broadcast import segment_broadcast
from segkernel.ops.segment_by_entropy import segment_by_entropy
from segkernel.ops.segment_by_mask import segment_by_mask
from segkernel.ops.segment_reduce import segment_reduce

# Function from `input_ids` and `attention_mask` `[B, P + T]` and the mask of completion tokens `[B, T]` to the rewards
# of the completion tokens `[B, T]`.
TokenRewards = Callable[[Tensor, Tensor, Tensor], Tensor]
SegmentsBy = Literal["trigger", "entropy", "turns"]
Use = Literal["mask", "advantages"]

# Log-probs in TRL's batch that its loss compares with the policy's.
LOGPROBS = ("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps")


@dataclass(frozen=True)
class Credit:
    """Settings of `SegmentCredit`.

    Args:
        use: `mask` trains only on segments whose sign agrees with the completion's advantage (arXiv 2411.00809);
            `advantages` gives every segment an advantage of its own, its reward relative to all segments of the
            group (of the completions of one prompt).
        segments: `trigger` splits where the token rewards change state (`segkernel.segment`), `entropy` at tokens of
            high entropy (`segkernel.segment_by_entropy`, arXiv 2501.02790), `turns` at tool output.
        baseline, delta, pivot_threshold, hold: of the trigger. A segment's sign is that of its reward minus the
            baseline; with `delta` it is the trigger's state.
        reduce: reward of a segment: `sum` or `mean` of its tokens' rewards.
        keep_neutral: whether `mask` keeps segments of sign 0.
        entropy_threshold, min_length: of `segments="entropy"`, in nats and tokens.
        scale: whether advantages are divided by the standard deviation of the group.
        sequence_weight: factor of TRL's own advantage, which is added to that of the segment.

    Raises:
        ValueError: a setting out of range.
    """

    use: Use = "mask"
    segments: SegmentsBy = "trigger"
    baseline: float = 0.0
    delta: float | None = None
    pivot_threshold: float | None = None
    hold: bool = True
    reduce: Literal["sum", "mean"] = "mean"
    keep_neutral: bool = False
    entropy_threshold: float | None = None
    min_length: int = 1
    scale: bool = True
    sequence_weight: float = 0.0

    def __post_init__(self) -> None:
        _validate.one_of("use", self.use, get_args(Use))
        _validate.one_of("segments", self.segments, get_args(SegmentsBy))
        _validate.one_of("reduce", self.reduce, ("sum", "mean"))
        if self.segments == "trigger" and self.delta is None and self.pivot_threshold is None:
            raise ValueError("delta: expected it or pivot_threshold for segments='trigger', got neither")
        if (self.segments == "entropy") != (self.entropy_threshold is not None):
            raise ValueError(
                f"entropy_threshold: expected one for segments='entropy' only, got {self.entropy_threshold} for "
                f"{self.segments!r}"
            )


def prefix_rewards(reward_model: Callable[..., Any]) -> TokenRewards:
    """Token rewards `r_t = s_t - s_(t-1)` of a reward model that scores every prefix (R3HF, arXiv 2411.08302).

    Args:
        reward_model: model of the policy's tokenizer whose `logits` are `[B, L, 1]`, such as
            `AutoModelForTokenClassification` of a model that `segkernel train reward` saved.
    """

    @torch.no_grad()
    def rewards(input_ids: Tensor, attention_mask: Tensor, mask: Tensor) -> Tensor:
        logits = reward_model(input_ids=input_ids, attention_mask=attention_mask).logits
        if logits.shape != (*input_ids.shape, 1):
            raise ValueError(
                f"reward_model: expected logits {[*input_ids.shape, 1]}, one score per token, got {list(logits.shape)}"
            )
        scores = logits[..., 0].float()
        length = mask.shape[1]
        return redistribute(scores[:, -length:], mask, initial=scores[:, -length - 1])

    return rewards


class SegmentCredit:
    """Mixin for `trl.GRPOTrainer`: a loss mask or advantages per segment of a completion.

    After the completions are generated and scored as usual, their tokens get rewards (`token_rewards`), are grouped
    into segments, and TRL's batch is changed: `tool_mask` for `Credit(use="mask")`, and `advantages` of shape `[B, T]`
    for `Credit(use="advantages")`. Everything else is TRL's. Masked tokens still count in the normalization of the
    `dapo`, `cispo` and `vespo` losses, which TRL computes before. In the forward pass of the loss they do not go
    through the LM head, where it scores valid rows only: on GPUs, and on the CPU with `patch("trl")`.

    Args:
        token_rewards: rewards of the completion tokens, for example `prefix_rewards(reward_model)`.
        credit: settings.
        *args, **kwargs: arguments of the trainer.

    Logs `segments/count`, the mean number of segments of a completion, and `segments/kept`, the share of completion
    tokens under the mask.

    Example:
        >>> from segkernel.integrations.trl import Credit, SegmentCredit, prefix_rewards
        >>> from trl import GRPOTrainer  # doctest: +SKIP
        >>> class SegmentGRPOTrainer(SegmentCredit, GRPOTrainer): pass  # doctest: +SKIP
        >>> trainer = SegmentGRPOTrainer(
        ...     model, reward_funcs, token_rewards=prefix_rewards(reward_model), credit=Credit(delta=0.5)
        ... )  # doctest: +SKIP
    """

    def __init__(self, *args: Any, token_rewards: TokenRewards, credit: Credit, **kwargs: Any) -> None:
        self.token_rewards = token_rewards
        self.credit = credit
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trainer: Any = super()
        output: dict[str, Any] = trainer._generate_and_score_completions(inputs)
        return self._with_segment_credit(output)

    def _compute_loss(self, model: Callable[..., Any], inputs: dict[str, Any]) -> Tensor:
        trainer: Any = super()
        if "tool_mask" in inputs and _head_scores_labels():
            left_out = inputs["completion_mask"] * inputs["tool_mask"] == 0
            # The policy's log-probs are 0 there. Ratios of 1 keep infinities out of the loss.
            compared = {name: inputs[name] for name in LOGPROBS if inputs.get(name) is not None}
            inputs = inputs | {name: value.masked_fill(left_out, 0) for name, value in compared.items()}
            model = _without_labels_at(left_out, model)
        loss: Tensor = trainer._compute_loss(model, inputs)
        return loss

    def _with_segment_credit(self, output: dict[str, Any]) -> dict[str, Any]:
        trainer: Any = self
        input_ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        attention_mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        mask = output["completion_mask"].bool()
        if "tool_mask" in output:
            mask = mask & output["tool_mask"].bool()
        rewards = self.token_rewards(input_ids, attention_mask, mask)
        if rewards.shape != mask.shape:
            raise ValueError(
                f"token_rewards: expected rewards {list(mask.shape)}, one per completion token, got "
                f"{list(rewards.shape)}"
            )
        ids, counts, segment_rewards, signs = self._segments(input_ids, attention_mask, mask, rewards)
        advantages = output["advantages"]  # [B]
        kept = mask
        if self.credit.use == "mask":
            agrees = signs * advantages.sign()[:, None] > 0
            if self.credit.keep_neutral:
                agrees = agrees | (signs == 0)
            kept = segment_broadcast(agrees.float(), ids) > 0
            output["tool_mask"] = kept.to(output["completion_mask"].dtype)
        else:
            own = segment_broadcast(self._relative_to_group(segment_rewards, counts), ids)
            output["advantages"] = own + self.credit.sequence_weight * advantages[:, None] * mask
        mode = "train" if trainer.model.training else "eval"
        totals = torch.stack([kept.sum(), mask.sum(), counts.sum(), counts.new_tensor(len(counts))]).double()
        kept_tokens, tokens, segments, rows = trainer.accelerator.gather(totals[None]).sum(0).tolist()
        trainer._metrics[mode]["segments/count"].append(segments / rows)
        trainer._metrics[mode]["segments/kept"].append(kept_tokens / max(tokens, 1.0))
        return output

    def _segments(
        self, input_ids: Tensor, attention_mask: Tensor, mask: Tensor, rewards: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Segment of every token `[B, T]`, and the number `[B]`, rewards and signs `[B, S]` of the segments."""
        credit = self.credit
        if credit.segments == "trigger":
            found = segment(
                rewards,
                mask,
                pivot_threshold=credit.pivot_threshold,
                baseline=credit.baseline,
                delta=credit.delta,
                hold=credit.hold,
                reduce=credit.reduce,
            )
            return found.ids, found.counts, found.rewards, found.signs
        if credit.segments == "entropy":
            assert credit.entropy_threshold is not None
            entropies = self._entropies(input_ids, attention_mask, mask.shape[1])
            ids, counts = segment_by_entropy(
                entropies, mask, threshold=credit.entropy_threshold, min_length=credit.min_length
            )
        else:
            ids, counts = segment_by_mask(mask)
        reduced = segment_reduce(rewards, ids, mask.shape[1], reduce=credit.reduce)
        present = torch.arange(mask.shape[1], device=mask.device) < counts[:, None]
        return ids, counts, reduced, (reduced - credit.baseline).sign() * present

    def _entropies(self, input_ids: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Entropies of the policy at the completion's tokens, `[B, T]`."""
        trainer: Any = self
        training = trainer.model.training
        batch_size = trainer.args.per_device_train_batch_size if training else trainer.args.per_device_eval_batch_size
        with torch.no_grad():
            found = trainer._get_per_token_logps_and_entropies(
                trainer.model, input_ids, attention_mask, length, batch_size=batch_size, compute_entropy=True
            )
        entropies: Tensor = found[1]
        return entropies

    def _relative_to_group(self, rewards: Tensor, counts: Tensor) -> Tensor:
        """Advantages of the segments `[B, S]`, relative to those of the same prompt in all processes."""
        trainer: Any = self
        accelerator = trainer.accelerator
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        first = accelerator.process_index * len(rewards)
        padded = accelerator.pad_across_processes(rewards, dim=1)
        every, every_count = accelerator.gather(padded), accelerator.gather(counts)
        group = torch.arange(len(every), device=every.device) // size
        normalized: Tensor = group_normalize(every, every_count, group, scale=self.credit.scale)
        return normalized[first : first + len(rewards), : rewards.shape[1]]


def _head_scores_labels() -> bool:
    """Whether TRL's LM head scores the labels of the batch (since 1.15), and not every completion token."""
    return hasattr(importlib.import_module("trl.trainer.utils"), "add_fused_lm_head")


def _without_labels_at(left_out: Tensor, model: Callable[..., Any]) -> Callable[..., Any]:
    """Model that gets no labels at these completion tokens `[B, T]`."""

    def call(*, labels: Tensor, **inputs: Any) -> Any:
        labels = labels.clone()  # [B, P + T]
        labels[:, -left_out.shape[1] :].masked_fill_(left_out, -100)
        return model(labels=labels, **inputs)

    return call
