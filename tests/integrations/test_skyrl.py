"""Advantages per turn and on segments in SkyRL's own trainer, from the output of its generator to the advantages."""

from __future__ import annotations

import pytest

from tests.integrations.peers import folder_of, python

CODE = """
import importlib, sys, typing, warnings
from types import SimpleNamespace
import typing_extensions
from tests.integrations.call_peer import STAND_INS, StandInFinder
if sys.version_info < (3, 12):
    typing.TypedDict = typing_extensions.TypedDict  # Pydantic refuses SkyRL's own before Python 3.12
sys.path.append(sys.argv[1])
sys.meta_path.append(StandInFinder(STAND_INS["skyrl"]))

example = importlib.import_module("examples.skyrl_turn_grpo")
utils = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")
# As SkyRL sends estimators to the processes of Ray.
pickle = importlib.import_module("cloudpickle")
for name in ("segkernel_turn_grpo", "segkernel_asr_grpo"):
    utils.AdvantageEstimatorRegistry._functions[name] = pickle.loads(
        pickle.dumps(utils.AdvantageEstimatorRegistry.get(name))
    )

def advantages(estimator, rewards, loss_masks, *options):
    given = (
        f"trainer.algorithm.advantage_estimator={estimator}",
        "trainer.train_batch_size=1",
        "trainer.policy_mini_batch_size=1",
        "generator.n_samples_per_prompt=2",
        *options,
    )
    trainer = object.__new__(example.Trainer)
    trainer.cfg = example.SkyRLTrainConfig.from_cli_overrides(list(given))
    trainer.all_metrics = {}
    trainer.tokenizer = SimpleNamespace(pad_token_id=0)
    trainer.dispatch = SimpleNamespace(get_lcm_dp_size=lambda: 1)
    generated = {
        "prompt_token_ids": [[5]] * len(rewards),
        "response_ids": [[7] * len(mask) for mask in loss_masks],
        "rewards": rewards,
        "loss_masks": loss_masks,
        "stop_reasons": ["stop"] * len(rewards),
        "rollout_metrics": None,
        "rollout_logprobs": None,
    }
    generated, uids = trainer.postprocess_generator_output(generated, ["x"] * len(rewards))
    batch = trainer.convert_to_training_input(generated, uids)
    batch["values"] = None  # of a critic
    before = {name: batch[name].clone() for name in ("response_mask", "rewards")}
    batch = trainer.compute_advantages_and_returns(batch)
    assert all(batch[name].equal(value) for name, value in before.items())
    assert batch["returns"].equal(batch["advantages"])
    return batch["advantages"]

# SkyRL pads on the left. The first response has two turns; the reward of the first one is at an end token that SkyRL
# has added, outside of the loss mask. Returns of the turns: 4, 3 and 2, whose mean is 3.
turns = [[0.0, 0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 2.0]], [[1, 1, 0, 0, 1], [1, 1, 1]]
unscaled = "trainer.algorithm.grpo_norm_by_std=false"
assert advantages("segkernel_turn_grpo", *turns, unscaled).tolist() == [[1, 1, 0, 0, 0], [0, 0, -1, -1, -1]]

# Responses of one turn: SkyRL's GRPO.
single = [3.0, 1.0], [[1, 1], [1, 1, 1]]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ours = advantages("segkernel_turn_grpo", *single)
assert "every response of the batch is a single turn" in str(caught[-1].message), caught
assert (ours - advantages("grpo", *single)).abs().max() < 1e-5

# Scores 4 and 2, so the advantages are +1 and -1, on the segments of rewards above 0.5 and below -0.5.
tokens = [[2.0, 2.0, 2.0, -2.0], [1.0, 3.0, -2.0]], [[1, 1, 1, 1], [1, 1, 1]]
assert advantages("segkernel_asr_grpo", *tokens, unscaled).tolist() == [[1, 1, 1, 0], [0, 0, 0, -1]]
"""


@pytest.mark.packages
def test_skyrl_trainer_has_advantages_per_turn_and_on_segments() -> None:
    """With the classes and the estimators of the example, as the training process of Ray has them."""
    python("-c", CODE, folder_of("skyrl"), variables={"PYTHONWARNINGS": "ignore"})
