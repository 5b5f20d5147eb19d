"""Result types of the public functions, checked by mypy in `make lint`; never run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import assert_type

import segkernel
import segkernel.numpy
from segkernel import Segments, TokenLogprobs, losses


def log_probs_are_one_tensor_or_a_pair(logits: Tensor, labels: Tensor, mask: Tensor, both: bool) -> None:
    assert_type(segkernel.token_logprobs(logits, labels), Tensor)
    assert_type(segkernel.token_logprobs(logits, labels, mask, temperature=0.7, entropy=False), Tensor)
    assert_type(segkernel.token_logprobs(logits, labels, mask, entropy=True), tuple[Tensor, Tensor])
    assert_type(segkernel.token_logprobs(logits, labels, entropy=both), Tensor | tuple[Tensor, Tensor])
    assert_type(segkernel.token_logprobs(logits, labels, temperature=logits, outputs=("entropy",)), TokenLogprobs)
    assert_type(segkernel.linear_token_logprobs(logits, logits, labels, bias=logits), Tensor)
    assert_type(segkernel.linear_token_logprobs(logits, logits, labels, outputs=["is_argmax"]), TokenLogprobs)
    assert_type(segkernel.linear_token_logprobs(logits, logits, labels, entropy=True), tuple[Tensor, Tensor])
    assert_type(segkernel.sequence_logprobs(logits, labels, reduce="mean"), Tensor)
    assert_type(segkernel.sequence_logprobs(logits, labels, softcap=30.0, entropy=True), tuple[Tensor, Tensor])
    assert_type(segkernel.segment_logprobs(logits, labels, labels, 4), Tensor)
    assert_type(segkernel.segment_logprobs(logits, labels, labels, 4, entropy=True), tuple[Tensor, Tensor])


def misspelt_options_are_errors(logits: Tensor, labels: Tensor) -> None:
    segkernel.token_logprobs(logits, labels, temprature=0.7)  # type: ignore[call-overload]
    segkernel.sequence_logprobs(logits, labels, temperature="hot")  # type: ignore[call-overload]
    segkernel.segment(logits, treshold=1.0)  # type: ignore[call-arg]


def scans(rewards: Tensor, mask: Tensor) -> None:
    assert_type(segkernel.segment(rewards, mask, delta=0.5), Segments)
    assert_type(segkernel.segment(rewards, delta=rewards).mask, Tensor | None)
    assert_type(segkernel.detect_pivots(rewards, threshold=0.5), Tensor)
    assert_type(segkernel.hysteresis(rewards, low=-0.5, high=rewards, initial=mask), Tensor)
    assert_type(segkernel.segment_by_entropy(rewards, threshold=1.0), tuple[Tensor, Tensor])
    assert_type(segkernel.select_tokens(rewards, fraction=0.2), Tensor)
    assert_type(segkernel.segment_by_mask(mask), tuple[Tensor, Tensor])
    assert_type(segkernel.gae(rewards, rewards, mask), tuple[Tensor, Tensor])
    assert_type(segkernel.discounted_sum(rewards, discount=0.99), Tensor)
    assert_type(segkernel.group_normalize(rewards, mask, mask, per="segment"), Tensor)
    assert_type(segkernel.importance_weights(rewards, rewards, high=2.0), tuple[Tensor, Tensor])
    assert_type(segkernel.redistribute(rewards, mix=0.5, sequence_rewards=rewards), Tensor)
    assert_type(segkernel.segment_reduce(rewards, mask, 3), Tensor)
    assert_type(segkernel.segment_broadcast(rewards, mask, how="split"), Tensor)
    assert_type(segkernel.location_normalize(rewards, mask, mean=(0.0, 1.0), std=(0.0, 1.0)), Tensor)
    assert_type(segkernel.fit_location_normalizer(rewards, mask), tuple[tuple[float, float], tuple[float, float]])
    assert_type(losses.ppo_policy_loss(rewards, rewards, rewards), tuple[Tensor, Tensor])


def scans_of_arrays(rewards: NDArray[np.float32]) -> None:
    assert_type(segkernel.numpy.segment(rewards, delta=0.5), segkernel.numpy.Segments)
    assert_type(segkernel.numpy.hysteresis(rewards, low=-0.5, high=0.5), NDArray[Any])
    assert_type(segkernel.numpy.gae(rewards, rewards), tuple[NDArray[Any], NDArray[Any]])
