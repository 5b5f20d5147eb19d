"""The examples of docstrings: every public function has one, and all of them give what they say."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import segkernel
import segkernel.losses
import segkernel.numpy

PUBLIC = {name: getattr(segkernel, name) for name in segkernel.__all__}
PUBLIC = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
PUBLIC["numpy"] = segkernel.numpy  # its functions refer to their namesakes
PUBLIC |= {f"losses.{name}": getattr(segkernel.losses, name) for name in segkernel.losses.__all__}

ROOT = Path(__file__).parents[2]
SHOWING = [
    path.relative_to(ROOT).with_suffix("")
    for folder in ("segkernel", "benchmarks")
    for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_show_an_example(name):
    test, *_ = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert test.examples, f"segkernel.{name} shows no example"


@pytest.mark.parametrize("path", SHOWING, ids=str)
def test_examples_give_what_they_say(path):
    if path.parts[1] in ("trainers", "demo", "report", "experiments"):
        pytest.importorskip("transformers")
    if path.parts[1] == "experiments":
        pytest.importorskip("tabulate")
    tests = doctest.DocTestFinder().find(importlib.import_module(".".join(path.parts)))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    for test in tests:
        runner.run(test, out=output.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(output)
