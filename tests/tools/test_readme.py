"""README: its example, its tables and its length."""

import re
from pathlib import Path

import pytest
import torch

import segkernel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    return README.split(f"## {title}\n")[1].split("\n## ")[0]


def test_readme_example_has_gradients_only_where_the_mask_is_set():
    names: dict = {}
    exec(EXAMPLES[0], names)
    kept, grad = names["segments"].mask, names["logits"].grad
    assert kept.any()
    assert not kept[names["response"] == 0].any()
    assert torch.equal((grad[:, :-1] != 0).any(-1), kept[:, 1:])
    assert not grad[:, -1].any()


def test_readme_trainer_example_trains_a_model_by_its_reward_function(tmp_path, monkeypatch):
    """With a tiny model in place of the one from the hub, and 2 prompts of its 32."""
    transformers = pytest.importorskip("transformers")
    from tests.training.trainer_helpers import tiny_lm, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    model = tiny_lm(tokenizer)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda name: model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES[1].splitlines()) <= 20
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exec(EXAMPLES[1].replace("range(2, 34)", "range(2, 4)"), {})
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert sorted((tmp_path / "runs" / "cities").glob("checkpoint-*"))


def test_readme_table_lists_operators_that_exist():
    rows = re.findall(r"^\| (`.*?) \|", section("Operators"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(listed) > 10
    assert listed <= set(segkernel.__all__)


def test_readme_lists_every_method():
    from segkernel.training.methods.registry import METHODS

    listed = re.search(r"The methods are (.*?)\. ", section("Training"), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`([a-z0-9-]+)`", listed[1])) == set(METHODS)


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_capitals_table_is_the_stored_result():
    """The tables of `make run` in README and docs/experiments.md follow from benchmarks/results/capitals.json."""
    from examples.capitals.comparison import conclusion, estimates, gains, read_logs

    runs = read_logs(ROOT / "benchmarks" / "results" / "capitals.json")
    experiments = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for method, row in estimates(runs).iterrows():
        line = f"| {method} | {' | '.join(cell.percent() for cell in row)} |"
        assert line in README
        assert line in experiments
    assert conclusion(gains(runs)) == (
        "ASR-DPO against DPO: 44.9 ± 27.8 points more parts right after adversarial pairs, "
        "1.4 ± 3.0 points fewer parts right (not significant) after all pairs."
    )
    assert "44.9 ± 27.8" in " ".join(experiments.split())
