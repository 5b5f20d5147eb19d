"""Functions for SkyRL, slime and PRIME-RL, with the arguments that these frameworks pass."""

from __future__ import annotations

import asyncio
import importlib
import math
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from examples import slime_rewards
from segkernel.integrations import prime_rl, skyrl, slime

ROOT = Path(__file__).parents[2]
MASK = torch.tensor([[1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]])


def skyrl_arguments(rewards: list[list[float]]) -> dict[str, Any]:
    """Keyword arguments of SkyRL's `compute_advantages_and_returns` for its estimators."""
    return {
        "token_level_rewards": torch.tensor(rewards),
        "response_mask": MASK,
        "index": ["x", "x"],
        "values": None,
        "grpo_norm_by_std": False,
        "gamma": 1.0,
        "lambd": 1.0,
        "config": SimpleNamespace(),
    }


def test_skyrl_turn_grpo_literals() -> None:
    """Returns of the turns: 4, 3 and 4, 2; their mean is 3.25. Rewards of tool output belong to the turn before."""
    advantages, returns = skyrl.turn_grpo(**skyrl_arguments([[0.0, 0.5, 0.5, 3.0], [1.5, 0.5, 0.0, 2.0]]))
    assert advantages.tolist() == [[0.75, 0.75, 0.0, -0.25], [0.75, 0.0, -1.25, -1.25]]
    assert returns is advantages


def test_skyrl_asr_grpo_literals() -> None:
    """Scores 4 and 2, of all rewards as in SkyRL: advantages +1 and -1."""
    arguments = skyrl_arguments([[2.0, 2.0, 2.0, -2.0], [1.0, 3.0, -2.0, 0.0]])
    advantages, _ = partial(skyrl.asr_grpo, delta=0.5)(**arguments)
    assert advantages.tolist() == [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]]
    with pytest.raises(ValueError, match=r"^delta: expected it or pivot_threshold, got neither"):
        skyrl.asr_grpo(**arguments)


def test_skyrl_turn_grpo_warns_where_every_response_is_one_turn() -> None:
    """As the masks of SkyRL's trainer have them, which has ones at tool output."""
    arguments = skyrl_arguments([[0.0, 0.0, 0.0, 4.0], [0.0, 0.0, 2.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    with pytest.warns(UserWarning, match=r"^segkernel_turn_grpo: every response .* needs the mixin .*LossMaskAdvant"):
        advantages, _ = skyrl.turn_grpo(**arguments | {"response_mask": mask})
    assert advantages.tolist() == [[1.0, 1.0, 1.0, 1.0], [0.0, -1.0, -1.0, -1.0]]


class SkyRLTrainer:
    """SkyRL's trainer: the mask of its estimators is the response mask."""

    def __init__(self, step_wise: bool = False) -> None:
        self.cfg = SimpleNamespace(generator=SimpleNamespace(step_wise_trajectories=step_wise))

    def compute_advantages_and_returns(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return data | {"seen": torch.stack([data["response_mask"], data["rewards"]])}


class LossMaskTrainer(skyrl.LossMaskAdvantages, SkyRLTrainer):
    pass


def test_skyrl_loss_mask_advantages_move_rewards_to_the_turns_they_end() -> None:
    """A reward ahead of all turns goes to the first one; a row outside of the loss keeps its sum."""
    masks = [[0.0, 1.0, 0.0, 0.0, 1.0], [0.0] * 5]
    rewards = torch.tensor([[0.5, 1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 3.0, 0.0, 1.0]])
    ones = torch.ones(2, 5)
    output = LossMaskTrainer().compute_advantages_and_returns(
        {"response_mask": ones, "loss_mask": torch.tensor(masks), "rewards": rewards}
    )
    assert output["seen"].tolist() == [masks, [[0.0, 7.5, 0.0, 0.0, 8.0], [0.0, 0.0, 0.0, 0.0, 4.0]]]
    assert output["response_mask"].equal(ones)
    assert output["rewards"].equal(rewards)
    with pytest.raises(ValueError, match=r"^generator.step_wise_trajectories: expected false, .*, got true$"):
        LossMaskTrainer(step_wise=True).compute_advantages_and_returns({})


class SlimeSample(SimpleNamespace):
    """slime's sample, with the fields that the functions read."""

    def __init__(self, reward: Any, length: int, loss_mask: list[int] | None = None, **fields: Any) -> None:
        super().__init__(
            reward=reward, response_length=length, loss_mask=loss_mask, **{"group_index": 0, "index": 7, **fields}
        )
        self.remove_sample = fields.get("remove_sample", False)

    def get_reward_value(self, args: Any) -> float:
        return self.reward if not args.reward_key else self.reward[args.reward_key]


def slime_arguments(reward_key: str | None = "score", **options: Any) -> SimpleNamespace:
    return SimpleNamespace(reward_key=reward_key, grpo_std_normalization=False, gamma=1.0, segkernel=options)


def test_slime_asr_grpo_literals() -> None:
    """Scores 2 and 0, which are not the sums of the token rewards: advantages +1 and -1. NaN where masked."""
    samples = [
        SlimeSample({"score": 2.0, "token_rewards": [2.0, 2.0, math.nan, -2.0]}, 4, [1, 1, 0, 1]),
        SlimeSample({"score": 0.0, "token_rewards": [1.0, -2.0, 5.0]}, 3),
        SlimeSample({"score": 9.0, "token_rewards": [1.0]}, 1, group_index=1),
    ]
    scores, advantages = slime.asr_grpo(slime_arguments(delta=0.5), samples)
    assert scores == [2.0, 0.0, 9.0]
    assert [row.tolist() for row in advantages] == [[1.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0]]


def test_slime_turn_grpo_literals() -> None:
    """Returns of the turns: 4 and 3, then 2 and 2, whose reward has no values per token; their mean is 2.75."""
    samples = [
        SlimeSample({"score": 4.0, "token_rewards": [0.0, 1.0, math.nan, 2.0]}, 4, [1, 1, 0, 1]),
        SlimeSample({"score": 2.0}, 3, [1, 0, 1]),
        SlimeSample({"score": 9.0}, 2, remove_sample=True),
    ]
    scores, advantages = slime.turn_grpo(slime_arguments(), samples)
    assert scores == [4.0, 2.0, 9.0]
    assert [row.tolist() for row in advantages] == [[1.25, 1.25, 0.0, 0.25], [-0.75, 0.0, -0.75], [0.0, 0.0]]
    same = slime.turn_grpo(slime_arguments(None), [SlimeSample(1.0, 2), SlimeSample(0.0, 1)])[1]
    assert [row.tolist() for row in same] == [[0.5, 0.5], [-0.5]]


def test_slime_example_rewards_reach_the_advantages() -> None:
    """Tokens 4 to 7 repeat 0 to 3, so only token 7 completes a repeated run of four; the first answer is right."""
    script = (ROOT / "examples" / "slime_asr_grpo.sh").read_text()
    options = dict(re.findall(r"^    --([a-z-]+) (\S+)$", script, re.M))
    assert options["custom-rm-path"] == f"{Path(slime_rewards.__file__).stem}.{slime_rewards.reward.__name__}"
    hooks = [options[f"custom-{hook}-path"].rpartition(".") for hook in ("reward-post-process", "advantage-function")]
    functions = [getattr(importlib.import_module(module), name) for module, _, name in hooks]
    assert functions == [slime.asr_grpo, slime.token_advantages]
    delta = re.search(r"^  delta: (\S+)", script, re.M)
    assert delta is not None
    samples = [SlimeSample(None, 9, tokens=[1, 2, 3, 4] * 2 + [9], response="it is 9", label="9")]
    samples += [SlimeSample(None, 1, tokens=[0, 0, 7], response="it is 7", label="9")]
    for sample in samples:
        sample.reward = asyncio.run(slime_rewards.reward(None, sample))
    scores, advantages = functions[0](slime_arguments(options["reward-key"], delta=float(delta[1])), samples)
    assert scores == [1.0, 0.0]
    assert [row.tolist() for row in advantages] == [[0.5] * 7 + [0.0, 0.5], [0.0]]


def test_slime_token_advantages_slice_those_of_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("slime.backends.megatron_utils.cp_utils")
    # A context-parallel rank with every token but the first.
    module.__dict__["slice_log_prob_with_cp"] = lambda values, total, response: values[total - response :]
    for name in ("slime", "slime.backends", "slime.backends.megatron_utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    data: dict[str, Any] = {
        "rewards": [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([-1.0])],
        "total_lengths": [4, 1],
        "response_lengths": [3, 1],
        "kl": [torch.zeros(2), torch.zeros(1)],
    }
    slime.token_advantages(SimpleNamespace(), data)
    assert [row.tolist() for row in data["advantages"]] == [[0.0, 2.0], [-1.0]]
    assert [row.tolist() for row in data["returns"]] == [[0.0, 2.0], [-1.0]]
    with pytest.raises(ValueError, match=r"^rewards: expected advantages per token, got scalars; set --custom-reward"):
        slime.token_advantages(SimpleNamespace(), {"rewards": [1.0]})


@pytest.mark.parametrize(
    ("options", "sample", "message"),
    [
        ({}, SlimeSample({"score": 1.0}, 2), r"segkernel in --custom-config-path: expected delta or pivot_threshold"),
        ({"dleta": 1}, SlimeSample({"score": 1.0}, 2), "segkernel in --custom-config-path: expected options of base"),
        ({"delta": 1}, SlimeSample({"score": 1.0}, 2), "token_rewards: expected 2 values in .* sample 7, got none"),
        ({"delta": 1}, SlimeSample({"score": 1.0, "token_rewards": [1.0]}, 2), "token_rewards: expected 2 .* got 1"),
        (
            {"delta": 1},
            SlimeSample({"score": 1.0, "token_rewards": [1.0]}, 1, group_index=None),
            "group_index: expected that of a prompt, got None for sample 7",
        ),
    ],
)
def test_slime_asr_grpo_names_what_is_wrong(options: dict[str, Any], sample: SlimeSample, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        slime.asr_grpo(slime_arguments(**options), [sample])


@pytest.fixture
def loss_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """PRIME-RL's module of the class that its losses return: a tuple here."""
    module = ModuleType("prime_rl.trainer.rl.loss")
    module.__dict__["LossOutputs"] = lambda loss, metrics: (loss, metrics)
    monkeypatch.setitem(sys.modules, "prime_rl.trainer.rl.loss", module)
    for name in ("prime_rl", "prime_rl.trainer", "prime_rl.trainer.rl"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("loss_outputs")
def test_prime_rl_example_names_the_loss_and_its_options() -> None:
    """A ratio of 1.5 for the advantage 2 is clipped to 1.2, and one of 0.5 for -2 to 0.8."""
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    given = tomllib.loads((ROOT / "examples" / "prime_rl_segment_ratio.toml").read_text())["trainer"]["loss"]
    module, _, name = given["import_path"].rpartition(".")
    function = getattr(importlib.import_module(module), name)
    for ratio, advantage, expected in ((1.5, 2.0, -2.4), (0.5, -2.0, 1.6)):
        inputs = SimpleNamespace(
            trainer_logprobs=torch.tensor([math.log(ratio)]),
            inference_logprobs=torch.zeros(1),
            advantages=torch.tensor([advantage]),
            loss_mask=torch.tensor([True]),
            loss_weights=None,
        )
        assert function(inputs, **given["kwargs"])[0].item() == pytest.approx(expected)


@pytest.mark.usefixtures("loss_outputs")
def test_prime_rl_segment_ratio_loss_literals() -> None:
    """Ratios e^0.3 of the first turn, and e^-0.4 of the second, which is clipped to 0.8 for a negative advantage."""
    logprobs = torch.tensor([0.2, 0.4, 5.0, -0.4, 3.0], requires_grad=True)
    inputs = SimpleNamespace(
        trainer_logprobs=logprobs,
        inference_logprobs=torch.zeros(5),
        advantages=torch.tensor([1.0, 1.0, 1.0, -2.0, 0.0]),
        loss_mask=torch.tensor([True, True, False, True, True]),
        loss_weights=torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0]),
    )
    loss, metrics = prime_rl.segment_ratio_loss(inputs, clip_low=0.2, clip_high=9.0)
    assert loss.item() == pytest.approx(-1.5 * math.exp(0.3) + 2 * 0.8, rel=1e-6)
    assert metrics["is_clipped"].item() == pytest.approx(1 / 3)
    (grad,) = torch.autograd.grad(loss, logprobs)
    assert grad.tolist() == pytest.approx([-math.exp(0.3), -0.5 * math.exp(0.3), 0.0, 0.0, 0.0], rel=1e-6)
