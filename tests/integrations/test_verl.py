"""verl: patched functions, advantages and loss per segment, the plug-in, and verl's own tests."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import integrations
from segkernel.integrations.targets import PassBack
from segkernel.integrations.verl import credit, swaps
from tests.integrations.peers import ROOT, python

pytestmark = [pytest.mark.usefixtures("verl"), pytest.mark.packages]

# By default Ray's workers run at niceness 15: on busy cores the import of torch takes them minutes.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONWARNINGS": "ignore"}
MASK = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]])


def test_verl_functions_agree_in_values_and_gradients(verl: Path) -> None:
    report = integrations.patch("verl", verify=True)
    assert {row.reason for row in report.rows} == {"verified"}
    assert len(report.rows) == 5


def test_verl_gae_of_masks_with_holes_is_theirs_at_valid_positions(verl: Path) -> None:
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    rewards, values = torch.randn(2, 3, 4)
    arguments = (rewards, values, MASK, torch.tensor(0.9), torch.tensor(0.8))
    expected = algorithms.compute_gae_advantage_return(*arguments)
    with integrations.patched("verl"):
        actual = algorithms.compute_gae_advantage_return(*arguments)
        assert algorithms.get_adv_estimator_fn("gae") is algorithms.compute_gae_advantage_return
        assert integrations.status().rows[-1].served == 1
    valid = MASK.bool()
    torch.testing.assert_close(actual[0][valid], expected[0][valid], rtol=1e-5, atol=1e-6)
    assert torch.equal(actual[1][valid], expected[1][valid])
    assert not actual[1][~valid].any()


def test_verl_logprobs_are_float32_and_overwrite_logits_only_where_verl_does(
    verl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functional: Any = importlib.import_module("verl.utils.torch_functional")
    leaf = torch.randn(4, 9).bfloat16().requires_grad_()
    labels = torch.tensor([0, 8, 3, 3])
    for flash in (False, True):
        monkeypatch.setattr(functional, "FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE", flash)
        logits = leaf * 1.0
        before = logits.detach().clone()
        logprobs = swaps.logprobs_from_logits(logits, labels)
        assert logprobs.dtype == torch.float32
        torch.testing.assert_close(
            logprobs, before.float().log_softmax(-1).gather(-1, labels[:, None])[:, 0], rtol=1e-5, atol=1e-5
        )
        logprobs.sum().backward()
        assert torch.equal(logits, before) != flash


@pytest.mark.parametrize("temperature", [torch.tensor([[0.5], [2.0], [1.0], [0.7]]), torch.tensor(0.7)])
@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_verl_fused_linear_takes_temperatures_per_token(
    verl: Path, temperature: torch.Tensor, shape: tuple[int, ...]
) -> None:
    module: Any = importlib.import_module("verl.utils.experimental.torch_functional")
    ids = torch.tensor([3, 0, 8, 8]).view(shape)
    results = []
    for forward in (module.FusedLinearForPPO.forward, swaps.fused_linear):
        generator = torch.Generator().manual_seed(0)
        leaves = [torch.randn(size, generator=generator).requires_grad_() for size in ((*shape, 5), (9, 5))]
        head = module.FusedLinearForPPO()
        hidden = leaves[0] * 1.0  # verl changes requires_grad of a view of it
        logprobs, entropy = forward(head, hidden, leaves[1], ids, temperature)
        loss = (logprobs * torch.arange(1.0, 5).view(shape)).sum() + entropy.square().sum()
        results.append([logprobs, entropy, *torch.autograd.grad(loss, leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("temperature", "reason"),
    [
        (torch.ones(3), "temperature of another shape"),
        (torch.tensor([[1.0], [0.0]]), "temperature that is not positive"),
        (torch.ones(2, 1, requires_grad=True), "temperature with a gradient"),
    ],
)
def test_verl_fused_linear_passes_other_temperatures_back(temperature: torch.Tensor, reason: str) -> None:
    with pytest.raises(PassBack, match=f"^{reason}$"):
        swaps.fused_linear(SimpleNamespace(), torch.randn(2, 3), torch.randn(5, 3), torch.tensor([1, 4]), temperature)


def test_verl_fused_linear_passes_liger_and_other_devices_back() -> None:
    hidden, weight, ids = torch.randn(1, 2, 3), torch.randn(5, 3), torch.tensor([[1, 4]])
    with pytest.raises(PassBack, match=r"^backend liger$"):
        swaps.fused_linear(SimpleNamespace(impl_backend="liger"), hidden, weight, ids)
    with pytest.raises(PassBack, match=r"^device meta$"):
        swaps.fused_linear(SimpleNamespace(), hidden.to("meta"), weight.to("meta"), ids)


def test_turn_grpo_literals() -> None:
    """Turns of 2 and 1, of 1 and 2, and of 4 tokens; rows 0 and 1 answer one prompt.

    A reward at a masked position belongs to the turn before it: the rewards of the turns are 1, 3 and 2, 2 and 7.
    """
    rewards = torch.tensor([[0.0, 0.5, 0.5, 3.0], [1.5, 0.5, 0.0, 2.0], [0.0, 0.0, 0.0, 7.0]])
    advantages, returns = credit.turn_grpo(
        rewards, MASK, np.array(["a", "a", "b"], dtype=object), {"norm_adv_by_std_in_grpo": False, "gamma": 1.0}
    )
    # Returns of the turns: 4, 3 and 4, 2; their mean is 3.25.
    assert advantages.tolist() == [[0.75, 0.75, 0.0, -0.25], [0.75, 0.0, -1.25, -1.25], [0.0] * 4]
    assert returns is advantages
    discounted, _ = credit.turn_grpo(
        rewards,
        MASK,
        ["a", "a", "b"],
        {"norm_adv_by_std_in_grpo": False, "gamma": 0.5, "segkernel": {"per": "segment"}},
    )
    # Returns 2.5, 3 and 3, 2, relative to the turns of the same number: means 2.75 and 2.5.
    assert discounted[:2].tolist() == [[-0.25, -0.25, 0.0, 0.5], [0.25, 0.0, -0.5, -0.5]]


def test_turn_grpo_of_one_reward_at_the_end_of_single_turns_is_verl_grpo(verl: Path) -> None:
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    mask = torch.tensor([[1, 1, 1, 0]] * 4)
    rewards = torch.zeros(4, 4)
    rewards[:, 2] = torch.tensor([1.0, 0.0, 0.5, 3.0])
    index = np.array(["a", "b", "a", "b"], dtype=object)
    expected, _ = algorithms.compute_grpo_outcome_advantage(rewards, mask, index)
    actual, _ = credit.turn_grpo(rewards, mask, index, {})
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    # Responses that end with tool output, which has their rewards.
    rewards = rewards.roll(1, 1)
    torch.testing.assert_close(algorithms.compute_grpo_outcome_advantage(rewards, mask, index)[0], expected)
    torch.testing.assert_close(credit.turn_grpo(rewards, mask, index, {})[0], actual)


def test_asr_grpo_literals() -> None:
    """Scores 2 and 4 of one prompt, with the reward of tool output: advantages -1 and +1 without scaling.

    Segments of the other sign get 0.
    """
    rewards = torch.tensor([[2.0, 2.0, 0.0, -2.0], [1.0, 4.0, -2.0, 1.0]])
    config = {"norm_adv_by_std_in_grpo": False, "segkernel": {"delta": 0.5}}
    advantages, _ = credit.asr_grpo(rewards, MASK[:2], ["x", "x"], config)
    assert advantages.tolist() == [[0.0, 0.0, 0.0, -1.0], [1.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"expected delta or pivot_threshold for segkernel_asr_grpo, got neither; add for example \+algorithm"),
        ({"dleta": 1}, "expected options of baseline, delta, pivot_threshold, hold, keep_neutral, got dleta"),
    ],
)
def test_asr_grpo_names_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^algorithm.segkernel: {message}"):
        credit.asr_grpo(torch.zeros(1, 2), torch.ones(1, 2), ["x"], {"segkernel": options})


def test_segment_ratio_of_whole_responses_is_verl_gspo(verl: Path) -> None:
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    config = importlib.import_module("verl.workers.config").ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=2, clip_ratio_low=0.1, clip_ratio_high=0.2
    )
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    old = -torch.rand(2, 4)
    advantages = torch.tensor([[0.7], [-1.3]]).expand(2, 4)
    results = []
    for loss in (algorithms.compute_policy_loss_gspo, credit.segment_ratio):
        new = (old + 0.3 * torch.linspace(-1, 1, 8).view(2, 4)).requires_grad_()
        value, metrics = loss(old, new, advantages, mask, "seq-mean-token-mean", config)
        results.append((value, torch.autograd.grad(value, new)[0], metrics))
    torch.testing.assert_close(results[1][:2], results[0][:2], rtol=1e-5, atol=1e-6)
    assert results[1][2] == pytest.approx(results[0][2], abs=1e-6)


def test_segment_ratio_literals_of_two_turns() -> None:
    """Log-ratios (0.2, 0.4) and (-0.4) of two turns: ratios e^0.3 and e^-0.4. Tokens without advantage add 0."""
    config = SimpleNamespace(clip_ratio=9.0, clip_ratio_low=None, clip_ratio_high=None, global_batch_info={})
    new = torch.tensor([[0.2, 0.4, 5.0, -0.4, 3.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, 1.0, 1.0, 2.0, 0.0]])
    mask = torch.tensor([[1, 1, 0, 1, 1]])
    loss, _ = credit.segment_ratio(torch.zeros(1, 5), new, advantages, mask, "seq-mean-token-sum", config)
    assert loss.item() == pytest.approx(-(2 * np.exp(0.3) + 2 * np.exp(-0.4)), rel=1e-6)
    (grad,) = torch.autograd.grad(loss, new)
    assert grad[0].tolist() == pytest.approx([-np.exp(0.3), -np.exp(0.3), 0.0, -2 * np.exp(-0.4), 0.0], rel=1e-6)


PLUGIN = """
import verl

def names():
    import verl.trainer.ppo.core_algos as algorithms
    found = [*algorithms.ADV_ESTIMATOR_REGISTRY, *algorithms.POLICY_LOSS_REGISTRY]
    return [name for name in found if name.startswith("segkernel")], hasattr(
        algorithms.compute_gae_advantage_return, "__wrapped__")

print(*names())
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
print(*ray.get(ray.remote(names).remote()))
ray.shutdown()
"""


def test_plugin_registers_names_in_a_fresh_process_and_a_ray_worker_and_patches_nothing(
    verl: Path, tmp_path: Path
) -> None:
    metadata = tmp_path / "segkernel_entry_points-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: segkernel-entry-points\nVersion: 1.0\n")
    table = re.search(r'^\[project.entry-points."(.+)"\]\n(\w+) = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert table is not None
    group, name, value = table.groups()
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    ran = python("-c", PLUGIN, path=(ROOT, verl, tmp_path), variables=RAY, cwd=tmp_path, timeout=200)
    names = "['segkernel_turn_grpo', 'segkernel_asr_grpo', 'segkernel_segment_ratio']"
    assert re.findall(r"^\[.*", ran.stdout, re.M) == [f"{names} False"] * 2


CLEANING = """
import os
from segkernel.integrations.ray_environment import hook

def clean(runtime_env):  # Ray starts its services after this call
    passed = hook(runtime_env)
    for name in ("SEGKERNEL_INTEGRATIONS", "SEGKERNEL_ADVANTAGES"):
        del os.environ[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(os.environ["PYTHONPATH"].split(os.pathsep)[1:])
    return passed
"""
LAUNCHED = """
import os
import ray
assert os.environ["RAY_RUNTIME_ENV_HOOK"] == "segkernel.integrations.ray_environment.hook"
os.environ["RAY_RUNTIME_ENV_HOOK"] = "cleaning.clean"
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")

@ray.remote
def load():
    import openrlhf.trainer.ppo_utils.experience_maker

try:
    ray.get(load.remote())
except Exception as error:
    print(str(error).splitlines()[-1])
ray.shutdown()
"""


def test_segkernel_run_reaches_ray_workers(verl: Path, tmp_path: Path) -> None:
    """An OpenRLHF whose experience maker is unknown: the worker's import names the advantages that it cannot have.

    Ray's services start without the variables, as in a cluster that runs already.
    """
    package = tmp_path / "openrlhf" / "trainer" / "ppo_utils"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "experience_maker.py").write_text("class RemoteExperienceMaker:\n    pass\n")
    metadata = tmp_path / "openrlhf-0.11.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: openrlhf\nVersion: 0.11.9\n")
    (tmp_path / "launched.py").write_text(LAUNCHED)
    (tmp_path / "cleaning.py").write_text(CLEANING)
    words = (
        "-m",
        "segkernel",
        "run",
        "--patch",
        "openrlhf",
        "--advantages",
        "segkernel_turn_grpo",
        "--",
        "launched.py",
    )
    ran = python(*words, path=(ROOT, verl, tmp_path), variables=RAY, cwd=tmp_path, timeout=200)
    assert re.search(
        r"compute_advantages_and_returns of openrlhf 0.11.9 cannot be replaced: not found$", ran.stdout, re.M
    )


@pytest.mark.parametrize(("value", "names", "swapped"), [("verl", 3, 5), ("0", 0, 0)])
def test_plugin_follows_the_environment(
    verl: Path, monkeypatch: pytest.MonkeyPatch, value: str, names: int, swapped: int
) -> None:
    algorithms: Any = importlib.import_module("verl.trainer.ppo.core_algos")
    registries: list[dict[str, Any]] = [{}, {}]
    for name, registry in zip(("ADV_ESTIMATOR_REGISTRY", "POLICY_LOSS_REGISTRY"), registries, strict=True):
        monkeypatch.setattr(algorithms, name, registry)
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", value)
    monkeypatch.delitem(sys.modules, "segkernel.integrations.verl.plugin", raising=False)
    importlib.import_module("segkernel.integrations.verl.plugin")
    assert sum(map(len, registries)) == names
    assert len(integrations.status().rows) == swapped


def test_verl_own_tests_pass_when_patched(verl: Path) -> None:
    pytest_of_verl = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/trainer/ppo/test_core_algos_on_cpu.py"]
    ran = python("-m", "segkernel", "run", "--patch", "verl", "--", *pytest_of_verl, path=(ROOT, verl), cwd=verl)
    assert re.search(r"compute_gae_advantage_return +2 +0$", ran.stderr, re.M)


def test_two_workers_of_the_actor_update_as_one_process_with_segment_advantages(verl: Path, tmp_path: Path) -> None:
    """verl's training worker, FSDP2 and gloo on the CPU: the program compares log-probs, advantages and weights."""
    ran = python(
        "-m", "tests.integrations.verl_workers", tmp_path, path=(ROOT,), variables={"PYTHONWARNINGS": "ignore"}
    )
    norms = re.search(r"^grad_norm (\S+), expected (\S+)$", ran.stdout, re.M)
    assert norms is not None
    assert float(norms[1]) == pytest.approx(float(norms[2]), abs=2e-5)
    # One micro-batch of log-probs, and two of the update.
    assert re.search(r"torch_functional.logprobs_from_logits +3 +0$", ran.stdout, re.M)


def test_example_configuration_composes_with_verl_and_feeds_the_estimator(verl: Path) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "examples"), version_base=None):
        config = compose("verl_asr_grpo")
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode in credit.LOSSES
    estimator = credit.ESTIMATORS[config.algorithm.adv_estimator]
    rewards = torch.tensor([[2.0, 2.0, -2.0], [1.0, -2.0, 1.0]])
    advantages, _ = estimator(rewards, torch.ones(2, 3), ["x", "x"], config.algorithm)
    assert advantages.sign().tolist() == [[1.0, 1.0, 0.0], [0.0, -1.0, 0.0]]
