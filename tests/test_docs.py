import doctest
import inspect

import pytest

import segkernel
import segkernel.distillation
import segkernel.losses
import segkernel.numpy

DOCUMENTED = {name: getattr(segkernel, name) for name in segkernel.__all__}
DOCUMENTED = {name: value for name, value in DOCUMENTED.items() if inspect.isfunction(value)}
DOCUMENTED["numpy"] = segkernel.numpy  # its functions refer to their namesakes
for module in (segkernel.losses, segkernel.distillation):
    DOCUMENTED |= {f"{module.__name__}.{name}".split(".", 1)[1]: getattr(module, name) for name in module.__all__}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_example_in_the_docstring_runs(name):
    test, *_ = doctest.DocTestFinder(recurse=False).find(DOCUMENTED[name], name, globs={})
    assert test.examples, f"segkernel.{name} shows no example"
    output: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append).failed
    assert not failed, "".join(output)
