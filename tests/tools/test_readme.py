"""The README's example runs as it stands."""

import re
from pathlib import Path

import torch

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_example():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    kept, grad = names["segments"].mask, names["logits"].grad
    assert kept.any()
    assert not kept[names["response"] == 0].any()
    # The gradient lives where tokens are kept, and nowhere else.
    assert torch.equal((grad[:, :-1] != 0).any(-1), kept)


def test_operators_are_listed():
    import segkernel

    operators = set(segkernel.__all__) - {"Segments", "debug"}
    assert operators == set(re.findall(r"`(\w+)`", README.split("## The operators")[1].split("## ")[0])) & operators


def test_methods_are_listed():
    from segkernel.training.methods.registry import METHODS

    rows = re.findall(r"^\| (`.*?) \|", README.split("## The methods")[1].split("\n## ")[0], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}
    assert listed == set(METHODS)
