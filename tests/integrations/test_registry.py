"""Patch registry, on a module that stands for a framework."""

from __future__ import annotations

import ast
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import integrations
from segkernel.integrations import registry
from segkernel.integrations.targets import Framework, PassBack, Target, code_lines, fingerprint
from tests.integrations import fake_framework

NAME = fake_framework.__name__


def doubled(x: Tensor, times: int = 2) -> Tensor:
    if times != 2:
        raise PassBack(f"times {times}")
    return x + x


def head(self: Any, x: Tensor) -> Tensor:
    return 1 + x


def squared(x: Tensor) -> Tensor:
    return x**2


def target(attribute: str, replacement: Callable[..., Any], example: Callable[[], Any] | None = None) -> Target:
    theirs = registry._find(NAME, attribute)[0]
    return Target(NAME, attribute, replacement, ((1, 0), (1, 4)), frozenset({fingerprint(theirs)}), example=example)


def one() -> tuple[Tensor]:
    return (torch.ones(3, requires_grad=True),)


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs targets as the framework "fake" of a version."""
    monkeypatch.setattr(registry, "_warned", set())
    module = ModuleType("fake_targets")
    monkeypatch.setitem(sys.modules, "fake_targets", module)
    monkeypatch.setattr(registry, "FRAMEWORKS", {"fake": "fake_targets"})

    def install(*targets: Target, version: str = "1.2.3") -> None:
        monkeypatch.setattr(module, "FRAMEWORK", Framework("fake", "fake", targets), raising=False)
        monkeypatch.setattr(registry, "version", lambda name: version)

    yield install
    integrations.unpatch()


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Loaded module that imported `double` by name, under another one."""
    module = ModuleType("importer")
    module.__dict__.update(twice=fake_framework.double, kept=fake_framework.untouched)
    monkeypatch.setitem(sys.modules, "importer", module)
    return module


def test_patch_swaps_in_every_importer_and_unpatch_gives_back_the_very_objects(
    framework: Any, importer: ModuleType
) -> None:
    theirs = fake_framework.double
    framework(target("double", doubled))
    report = integrations.patch("fake")
    assert report.swapped == [f"{NAME}.double"]
    assert importer.twice is fake_framework.double is not theirs
    assert fake_framework.double(torch.tensor([3.0])).tolist() == [6.0]
    late = ModuleType("late")
    late.__dict__["double"] = fake_framework.double  # as a module that is imported later has it
    sys.modules["late"] = late
    try:
        integrations.unpatch("fake")
    finally:
        del sys.modules["late"]
    assert theirs is fake_framework.double is importer.twice is late.double


def test_patch_replaces_methods_in_their_class_and_gives_them_back(framework: Any) -> None:
    theirs = vars(fake_framework.Head)["forward"]
    framework(target("Head.forward", head))
    with integrations.patched("fake"):
        assert vars(fake_framework.Head)["forward"] is not theirs
        assert fake_framework.Head().forward(torch.tensor(2.0)).item() == 3.0
        assert integrations.status().rows[0].served == 1
    assert vars(fake_framework.Head)["forward"] is theirs


def test_patch_replaces_autograd_functions_by_objects_with_apply(framework: Any) -> None:
    theirs = fake_framework.Square
    framework(target("Square", squared))
    with integrations.patched("fake"):
        assert fake_framework.Square is not theirs
        x = torch.tensor(3.0, requires_grad=True)
        fake_framework.Square.apply(x).backward()
        assert x.grad is not None
        assert x.grad.item() == 6.0
    assert fake_framework.Square is theirs


def test_calls_pass_back_and_are_counted_with_the_reason(framework: Any) -> None:
    framework(target("double", doubled))
    integrations.patch("fake")
    one = torch.ones(1)
    assert [fake_framework.double(one).item(), fake_framework.double(one, 3).item()] == [2.0, 3.0]
    assert fake_framework.double(one, times=3).item() == 3.0
    assert integrations.status().rows == ((f"{NAME}.double", 1, {"times 3": 2}),)
    assert str(integrations.status()).splitlines()[1].split() == [f"{NAME}.double", "1", "2", "(times", "3)"]


@pytest.mark.compiles
def test_calls_of_a_compiled_function_pass_back_without_recompiling_for_the_counts(framework: Any) -> None:
    framework(target("double", doubled))
    integrations.patch("fake")
    compiled = torch.compile(lambda x: fake_framework.double(x) + fake_framework.double(x, 3), backend="eager")
    torch._dynamo.utils.counters.clear()
    assert [compiled(torch.ones(1)).item() for _ in range(3)] == [5.0] * 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"known": frozenset({"0" * 16})}, "unknown source"),
        ({"replacement": lambda x: x}, "unknown signature"),
        ({"attribute": "gone"}, "not found"),
    ],
    ids=["source", "signature", "attribute"],
)
def test_unknown_versions_keep_theirs_with_one_warning_that_names_the_version(
    framework: Any, changes: dict[str, Any], reason: str
) -> None:
    theirs = fake_framework.double
    framework(replace(target("double", doubled), **changes), version="1.9.0")
    with pytest.warns(UserWarning, match=r"fake 1\.9\.0 differs from the versions .*double|gone"):
        report = integrations.patch("fake")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integrations.patch("fake")
    assert reason in report.kept[f"{NAME}.{changes.get('attribute', 'double')}"]
    assert fake_framework.double is theirs


def test_targets_of_other_releases_are_not_listed(framework: Any) -> None:
    old = replace(target("untouched", lambda x: x), versions=((0, 1), (0, 9)))
    framework(old, target("double", doubled))
    assert [row.target for row in integrations.patch("fake").rows] == [f"{NAME}.double"]


def test_release_without_targets_gives_one_warning_and_an_empty_report(framework: Any) -> None:
    framework(target("double", doubled), version="0.9.1")
    with pytest.warns(UserWarning, match=r"fake 0\.9\.1 is older than .*; nothing is replaced$"):
        assert integrations.patch("fake").rows == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        integrations.patch("fake")


def test_missing_modules_are_kept_without_a_warning(framework: Any, recwarn: pytest.WarningsRecorder) -> None:
    framework(replace(target("double", doubled), module="no_such_module"))
    assert integrations.patch("fake").kept == {
        "no_such_module.double": "cannot be imported: No module named 'no_such_module'"
    }
    assert not recwarn.list


def test_functions_that_their_package_leaves_out_are_kept_without_a_warning(
    framework: Any, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As TRL 1.15 does without Triton: the name of its LM head is None."""
    framework(target("double", doubled, one))
    monkeypatch.setattr(fake_framework, "double", None)
    assert integrations.patch("fake", verify=True).kept == {f"{NAME}.double": "not available in this installation"}
    assert not recwarn.list


def test_verify_keeps_theirs_where_values_or_gradients_differ(framework: Any) -> None:
    class WrongGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return 3 * grads[0]

    def wrong(x: Tensor, times: int = 2) -> Tensor:
        return WrongGradient.apply(x)

    framework(target("double", wrong, one))
    assert (
        "results differ: Tensor-likes are not close" in integrations.patch("fake", verify=True).kept[f"{NAME}.double"]
    )
    framework(target("double", doubled, one))
    assert integrations.patch("fake", verify=True).rows[0].reason == "verified"


def test_verify_keeps_theirs_where_it_fails_on_the_example(framework: Any) -> None:
    def needs_two(x: Tensor, times: int = 2) -> Tensor:
        raise RuntimeError("no kernel\nfor this device")

    framework(target("double", needs_two, one))
    assert integrations.patch("fake", verify=True).kept == {
        f"{NAME}.double": "the example fails: RuntimeError: no kernel for this device"
    }


def test_verify_swaps_an_unknown_source_that_agrees(framework: Any) -> None:
    framework(replace(target("double", doubled, one), known=frozenset()))
    assert integrations.patch("fake", verify=True).rows[0][2:] == (True, "unknown source, verified")


def test_nested_patched_leaves_outer_swaps_in_place(framework: Any) -> None:
    theirs = fake_framework.double
    framework(target("double", doubled))
    with integrations.patched("fake"):
        with integrations.patched("fake") as report:
            assert report.rows[0][2:] == (True, "before")
        assert fake_framework.double is not theirs
    assert fake_framework.double is theirs


def test_patching_a_framework_twice_in_one_call_lists_it_once(framework: Any) -> None:
    theirs = fake_framework.double
    framework(target("double", doubled))
    assert integrations.patch("fake", "fake").rows == ((f"{NAME}.double", "fake 1.2.3", True, ""),)
    assert integrations.patch("fake").rows == ((f"{NAME}.double", "fake 1.2.3", True, "before"),)
    integrations.unpatch()
    assert fake_framework.double is theirs


def test_threads_that_patch_at_once_swap_once_and_unpatch_gives_back_the_very_object(framework: Any) -> None:
    theirs = fake_framework.double
    together = threading.Barrier(2)

    def example() -> tuple[Tensor]:
        with suppress(threading.BrokenBarrierError):  # the other thread waits for this one
            together.wait(0.2)
        return one()

    framework(target("double", doubled, example))
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.append(integrations.patch("fake", verify=True))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.rows[0].reason for report in reports) == ["before", "verified"]
    assert vars(fake_framework.double)["__wrapped__"] is theirs
    integrations.unpatch()
    assert fake_framework.double is theirs


def test_patched_gives_back_the_very_object_after_an_exception(framework: Any) -> None:
    theirs = fake_framework.double
    framework(target("double", doubled))

    def fails() -> None:
        with integrations.patched("fake"):
            assert fake_framework.double is not theirs
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert fake_framework.double is theirs
    assert integrations.status().rows == ()


def test_contexts_that_end_in_another_order_give_back_the_very_objects(framework: Any) -> None:
    theirs = fake_framework.double, vars(fake_framework.Head)["forward"]
    framework(target("double", doubled))
    outer = integrations.patched("fake")
    outer.__enter__()
    framework(target("double", doubled), target("Head.forward", head))
    inner = integrations.patched("fake")
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert [row.target for row in integrations.status().rows] == [f"{NAME}.Head.forward"]
    inner.__exit__(None, None, None)
    assert (fake_framework.double, vars(fake_framework.Head)["forward"]) == theirs
    assert integrations.status().rows == ()


def test_unpatch_keeps_what_another_package_has_put_in_place_since(
    framework: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method, an object of one module only, and one of all modules that hold it."""

    def later(*args: Any) -> None: ...

    framework(
        target("Head.forward", head),
        replace(target("untouched", lambda x: x), everywhere=False),
        target("double", doubled),
    )
    with integrations.patched("fake"):
        monkeypatch.setattr(fake_framework.Head, "forward", later)
        monkeypatch.setattr(fake_framework, "untouched", later)
        monkeypatch.setattr(fake_framework, "double", later)
    holders: Any = [(fake_framework.Head, "forward"), (fake_framework, "untouched"), (fake_framework, "double")]
    assert [vars(holder)[name] for holder, name in holders] == [later] * 3
    monkeypatch.undo()  # puts segkernel's objects back
    for holder, name in holders:
        setattr(holder, name, vars(holder)[name].__wrapped__)


def test_environment_switches_everything_off(framework: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = fake_framework.double
    framework(target("double", doubled))
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", "0")
    assert str(integrations.patch("fake")) == (
        "target                                    version     result\n"
        f"{NAME}.double  fake 1.2.3  kept (SEGKERNEL_INTEGRATIONS=0)"
    )
    assert fake_framework.double is theirs
    assert str(integrations.status()) == "nothing is patched"


@pytest.mark.parametrize("names", [(), ("fake", "nemo")])
def test_patch_refuses_other_names(framework: Any, names: tuple[str, ...]) -> None:
    framework(target("double", doubled))
    with pytest.raises(ValueError, match=r"^names: expected some of fake, got (none|'nemo')$"):
        integrations.patch(*names)


def test_patch_names_the_command_that_installs_a_missing_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_targets")
    module.__dict__["FRAMEWORK"] = Framework("fake", "fake-distribution", ())
    monkeypatch.setitem(sys.modules, "fake_targets", module)
    monkeypatch.setattr(registry, "FRAMEWORKS", {"fake": "fake_targets"})
    with pytest.raises(ImportError, match=r"^fake is not installed: `pip install fake-distribution`$"):
        integrations.patch("fake")


def test_fingerprint_ignores_comments_docstrings_and_blank_lines() -> None:
    assert code_lines("def f(x):\n    return x + 1\n") == code_lines(
        '    def f(x):\n        """Sum."""\n\n        # one more\n        return x + 1\n'
    )
    assert code_lines("def f(x):\n    return x + 1\n") != code_lines("def f(x):\n    return x + 2\n")


def test_modules_import_no_framework_at_import() -> None:
    imported = {
        name.partition(".")[0]
        for path in Path(registry.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {*sys.stdlib_module_names, "segkernel", "torch", "numpy"}
