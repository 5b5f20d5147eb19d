"""Advantages per turn and segment in OpenRLHF's experience maker, with stand-ins for the packages that need a GPU."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from examples import openrlhf_rewards
from segkernel import integrations
from segkernel.integrations.estimators import REQUEST, parse_request
from segkernel.integrations.run import check_advantages
from segkernel.integrations.verl import credit
from tests.integrations.call_peer import STAND_INS, StandInFinder
from tests.integrations.conftest import on_path
from tests.integrations.peers import folder_of

pytestmark = [pytest.mark.usefixtures("openrlhf"), pytest.mark.packages]

ROOT = Path(__file__).parents[2]
NAN = float("nan")
# Two samples of one prompt and two of another, in experiences of other groups and widths, as OpenRLHF balances them.
MASKS = [torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]]), torch.tensor([[1, 0, 1], [1, 1, 0]])]
INDEX = [[0, 3], [1, 2]]
SCORES = [[2.0, 1.0], [0.0, 3.0]]
TOKENS = [[[2.0, 2.0, NAN, -2.0], [1.0, -2.0, 2.0, NAN]], [[1.0, NAN, -1.0], [4.0, -1.0, NAN]]]  # sums are the scores


@pytest.fixture(scope="module")
def openrlhf() -> Iterator[None]:
    finder = StandInFinder(STAND_INS["openrlhf"])
    sys.meta_path.append(finder)
    for _ in on_path("openrlhf"):
        yield
    sys.meta_path.remove(finder)


def experience_maker(estimator: str, kl: float = 0.0, gamma: float = 1.0) -> Any:
    """OpenRLHF's experience maker, without its models."""
    module: Any = importlib.import_module("openrlhf.trainer.ppo_utils.experience_maker")
    args = SimpleNamespace(
        algo=SimpleNamespace(advantage=SimpleNamespace(estimator=estimator, gamma=gamma, lambd=1.0)),
        rollout=SimpleNamespace(n_samples_per_prompt=2),
        reward=SimpleNamespace(
            clip_range=(-10, 10), overlong_buffer_len=None, overlong_penalty_factor=1.0, stop_properly_penalty_coef=None
        ),
    )
    kl_controller = SimpleNamespace(value=kl)
    return module.RemoteExperienceMaker(None, None, None, None, kl_controller, SimpleNamespace(args=args), "tokenizer")


def experiences(kl: float = 1.0, **info: list[Tensor]) -> list[Any]:
    module: Any = importlib.import_module("openrlhf.trainer.ppo_utils.experience")
    return [
        module.Experience(
            action_mask=mask.bool(),
            rewards=torch.tensor(scores),
            kl=torch.full(mask.shape, kl),
            index=index,
            response_length=mask.sum(1),
            truncated=torch.zeros(len(mask)),
            info={name: values[number] for name, values in info.items()},
        )
        for number, (mask, index, scores) in enumerate(zip(MASKS, INDEX, SCORES, strict=True))
    ]


@pytest.fixture
def rewards_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("my_rewards")
    batches = iter(TOKENS)
    module.token_rewards = lambda experience, tokenizer: torch.tensor(next(batches))
    module.scalars = lambda experience, tokenizer: experience.rewards
    monkeypatch.setitem(sys.modules, "my_rewards", module)


def rows(experiences: list[Any]) -> list[list[float]]:
    """Advantages of all samples, those of one prompt next to one another."""
    by_index = {
        index: row.tolist() for each in experiences for index, row in zip(each.index, each.advantages, strict=True)
    }
    return [by_index[index] for index in sorted(by_index)]


def of_verl(estimator: str, scale: bool, kl: float = 0.0) -> list[list[float]]:
    """verl's advantages of the same token rewards, in one batch; in verl, rewards at masked positions count."""
    mask, rewards = torch.zeros(4, 4), torch.zeros(4, 4)
    for masks, tokens, index in zip(MASKS, TOKENS, INDEX, strict=True):
        for number, row_mask, row in zip(index, masks, torch.tensor(tokens), strict=True):
            mask[number, : len(row)], rewards[number, : len(row)] = row_mask.float(), row
    config: dict[str, Any] = {"norm_adv_by_std_in_grpo": scale}
    if estimator == "segkernel_asr_grpo":
        config["segkernel"] = {"delta": 0.5}
    rewards = (rewards - kl).masked_fill(mask == 0, 0.0)
    advantages, _ = credit.ESTIMATORS[estimator](rewards, mask, [0, 0, 1, 1], config)
    widths = {number: masks.shape[1] for masks, index in zip(MASKS, INDEX, strict=True) for number in index}
    return [advantages[number, : widths[number]].tolist() for number in range(4)]


@pytest.mark.parametrize("estimator", ["group_norm", "dr_grpo"])
@pytest.mark.parametrize("name", ["segkernel_turn_grpo", "segkernel_asr_grpo"])
@pytest.mark.usefixtures("rewards_module")
def test_advantages_are_those_of_verl(name: str, estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = " delta=0.5" if name == "segkernel_asr_grpo" else ""
    monkeypatch.setenv(REQUEST, f"{name} rewards=my_rewards.token_rewards{options}")
    batch, maker = experiences(), experience_maker(estimator, kl=0.125)
    with integrations.patched("openrlhf") as report:
        assert len(report.swapped) == 5
        maker.compute_advantages_and_returns(batch)
    expected = of_verl(name, estimator == "group_norm", kl=0.125)
    for actual, row in zip(rows(batch), expected, strict=True):
        assert actual == pytest.approx(row, abs=1e-6)
    for each in batch:
        assert torch.equal(each.returns, each.advantages)
        assert each.returns is not each.advantages
        assert each.kl is None
        assert {"group_reward_std", "return", "advantage_share"} <= set(each.info)
    assert maker.args.algo.advantage.gamma == 1.0


@pytest.mark.usefixtures("rewards_module")
def test_segment_advantages_literals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 2 and 0, 3 and 1: advantages +1 and -1. Segments of the other sign get 0."""
    monkeypatch.setenv(REQUEST, "segkernel_asr_grpo rewards=my_rewards.token_rewards delta=0.5")
    batch = experiences()
    with integrations.patched("openrlhf"):
        experience_maker("dr_grpo").compute_advantages_and_returns(batch)
    assert rows(batch) == [[1, 1, 0, 0], [0, 0, -1], [1, 0, 0], [0, -1, 0, 0]]
    assert batch[0].info["advantage_share"].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_turn_rewards_of_an_agent_literals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns earn 1 and 1, 0 and 0; 1; and 3, cut from two. With gamma 0.5 the returns are 1.5 and 1, 0 and 0; 3, 1."""
    monkeypatch.setenv(REQUEST, "segkernel_turn_grpo")
    turns = [torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]])]
    maker, batch = experience_maker("dr_grpo", gamma=0.5), experiences(turn_rewards=turns)
    with integrations.patched("openrlhf"), pytest.warns(UserWarning, match=r"^turn_rewards: 1 of 2 responses have mo"):
        maker.compute_advantages_and_returns(batch)
    assert rows(batch) == [[0.875, 0.875, 0.0, 0.375], [-0.625, 0.0, -0.625], [1, 1, 0], [-1, -1, -1, 0]]
    assert maker.args.algo.advantage.gamma == 0.5
    assert all("turn_rewards" not in each.info for each in batch)  # OpenRLHF cannot log it


def test_turn_rewards_of_an_agent_pass_through_openrlhf(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the agent's responses to advantages by OpenRLHF's own code: returns 3, 2 and 1, whose mean is 2."""
    generator: Any = importlib.import_module("openrlhf.trainer.ppo_utils.samples_generator").SamplesGenerator
    monkeypatch.setenv(REQUEST, "segkernel_turn_grpo")
    agents: list[tuple[list[tuple[int, int]], list[float]]] = [([(1, 3), (4, 5)], [1.0, 2.0]), ([(2, 4)], [1.0])]
    batch = [
        generator._process_response_into_experience(
            None,
            {
                "prompt": "p",
                "label": "l",
                "rollout_log_probs": None,
                "observation_tokens": [5] * (2 + ranges[-1][1]),
                "action_ranges": ranges,
                "reward": sum(turns),
                "extra_logs": {"turn_rewards": turns},
            },
        )
        for ranges, turns in agents
    ]
    maker = experience_maker("dr_grpo")
    maker.args.train, maker.args.rollout.micro_batch_size = SimpleNamespace(dynamic_batch_enable=False), 2
    maker.tokenizer = SimpleNamespace(pad_token_id=0)
    (batched,) = maker.split_rollout_samples(batch)
    batched.kl = torch.zeros(batched.action_mask.shape)
    with integrations.patched("openrlhf"):
        maker.compute_advantages_and_returns([batched])
    assert rows([batched]) == [[1, 1, 0, 0, 0, 0], [0, -1, -1, 0, 0, 0]]


def test_rewards_at_the_end_of_single_turns_give_the_advantages_of_openrlhf(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = experiences(), experiences()
    for each in (*theirs, *ours):
        each.action_mask[:, 1] = True
        each.action_mask[:, 2:] = False
    experience_maker("group_norm").compute_advantages_and_returns(theirs)
    monkeypatch.setenv(REQUEST, "segkernel_turn_grpo")
    with integrations.patched("openrlhf"):
        experience_maker("group_norm").compute_advantages_and_returns(ours)
    for actual, expected in zip(ours, theirs, strict=True):
        mask = expected.action_mask
        torch.testing.assert_close(actual.advantages[mask], expected.advantages[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("rewards_module")
@pytest.mark.parametrize(
    ("request_", "estimator", "message"),
    [
        ("segkernel_turn_grpo", "gae", r"--algo.advantage.estimator: expected group_norm or dr_grpo with segkernel_t"),
        (
            "segkernel_asr_grpo delta=1 rewards=my_rewards.scalars",
            "dr_grpo",
            r"my_rewards.scalars: expected a tensor \[2, 4\], as the action mask, got \[2\]",
        ),
    ],
)
def test_experience_maker_names_what_does_not_fit(
    request_: str, estimator: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUEST, request_)
    with integrations.patched("openrlhf"), pytest.raises(ValueError, match=f"^{message}"):
        experience_maker(estimator).compute_advantages_and_returns(experiences())


def test_fewer_turn_rewards_than_turns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUEST, "segkernel_turn_grpo")
    batch = experiences(turn_rewards=[torch.tensor([[1.0], [1.0]])] * 2)
    with (
        integrations.patched("openrlhf"),
        pytest.raises(ValueError, match=r"^turn_rewards: expected a reward for each of up to 2 turns, got 1$"),
    ):
        experience_maker("dr_grpo").compute_advantages_and_returns(batch)


def test_experience_maker_stays_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUEST, raising=False)
    assert len(integrations.patch("openrlhf").rows) == 4


def test_example_rewards_tokens_of_calculations() -> None:
    """`2 + 3 = 5 so 2 * 3 = 5`: a token per word, after a prompt of one padding and one other token."""
    words = "2 + 3 = 5 so 2 * 3 = 5".split()
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(f"{words[token]} " for token in ids))
    sequences = torch.tensor([[0, 0, *range(11), 0]])
    mask = torch.zeros(1, 13)
    mask[:, 1:12] = 1
    rewards = openrlhf_rewards.token_rewards(SimpleNamespace(sequences=sequences, action_mask=mask), tokenizer)
    assert rewards.tolist() == [[0.0, *[1.0] * 5, 0.0, *[-1.0] * 5, 0.0]]
    outcomes = openrlhf_rewards.reward_func(["say 5", "say 15"], ["say", "say"], ["5", "5"])
    assert outcomes["rewards"].tolist() == [1.0, 0.0]


def test_example_script_has_options_of_openrlhf_and_advantages_that_segkernel_takes() -> None:
    lines = (ROOT / "examples" / "openrlhf_asr_grpo.sh").read_text().partition("segkernel run")[2]
    ours, _, theirs = lines.replace("\\\n", " ").partition(" -- ")
    words = shlex.split(ours)
    request = words[words.index("--advantages") + 1 :]
    check_advantages(request, [words[words.index("--patch") + 1]])
    module, _, name = str(parse_request(request, "--advantages").rewards).rpartition(".")
    assert getattr(importlib.import_module(module), name) is openrlhf_rewards.token_rewards
    options = re.findall(r"--[a-z_.]+", theirs)
    source = (folder_of("openrlhf") / "openrlhf" / "cli" / "train_ppo_ray.py").read_text()
    assert len(options) == 9
    assert [option for option in options if f'"{option}"' not in source] == []
