"""Targets: functions of other packages, and what replaces them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch

Function = Callable[..., Any]
Arguments = tuple[Any, ...]
Release = tuple[int, int]

DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class PassBack(Exception):
    """Raised by a replacement before any work: the call goes to the original function, and the reason is counted."""


@dataclass(frozen=True)
class Target:
    """A function of another package that segkernel can replace.

    Args:
        module: module that defines or exports the function and is looked at first.
        attribute: name in the module; `Class.method` for a method.
        replacement: function with the same parameters, or more of them at the end. It may raise `PassBack`.
        versions: first and last release of the framework, `(major, minor)`, that the target belongs to.
        known: fingerprints of the sources in these releases.
        sources: further objects that the replacement relies on, `module.attribute`.
        registries: dictionaries that hold the object, too, `module.attribute`.
        everywhere: whether to swap the object in all loaded modules that hold it, or only in `module`.
        example: arguments on which `verify=True` compares both functions; None for one that differs on purpose.
        requested: whether the user requested it, for a target that changes results. It is swapped only then, and it
            is an error if it cannot be.
    """

    module: str
    attribute: str
    replacement: Function
    versions: tuple[Release, Release]
    known: frozenset[str]
    sources: tuple[str, ...] = ()
    registries: tuple[str, ...] = ()
    everywhere: bool = True
    example: Callable[[], Arguments] | None = None
    requested: Callable[[], bool] | None = None

    @property
    def name(self) -> str:
        return f"{self.module}.{self.attribute}"


@dataclass(frozen=True)
class Framework:
    """A package and its targets.

    Args:
        name: name for `patch`.
        distribution: name of the distribution that `pip` installs.
        targets: its targets; a function whose signature changed has one for each.
    """

    name: str
    distribution: str
    targets: tuple[Target, ...]

    def targets_of(self, release: Release) -> list[Target]:
        """Targets of a release. One that is newer than all known ones is taken for the newest."""
        newest = max(target.versions[1] for target in self.targets)
        return [
            target
            for target in self.targets
            if target.versions[0] <= min(release, newest) <= target.versions[1]
            and (target.requested is None or target.requested())
        ]


@dataclass
class Calls:
    """Counts of the calls of a replacement. Calls in compiled graphs are not counted."""

    served: int = 0
    passed_back: Counter[str] = field(default_factory=Counter)


def with_fallback(theirs: Function, replacement: Function, calls: Calls) -> Function:
    """Function that calls `replacement`, or `theirs` where that raises `PassBack`."""

    @wraps(theirs)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            result = replacement(*args, **kwargs)
        except PassBack as reason:
            if not torch.compiler.is_compiling():  # a counter in a graph would be a constant that changes
                calls.passed_back[str(reason)] += 1
            return theirs(*args, **kwargs)
        if not torch.compiler.is_compiling():
            calls.served += 1
        return result

    return call


def replace(theirs: Any, replacement: Function, calls: Calls) -> Any:
    """Object that takes the place of `theirs`: a function, or a class with `apply` for an autograd function."""
    if inspect.isclass(theirs) and issubclass(theirs, torch.autograd.Function):
        apply = staticmethod(with_fallback(theirs.apply, replacement, calls))
        return type(theirs.__name__, (), {"apply": apply, "__doc__": theirs.__doc__, "__wrapped__": theirs})
    return with_fallback(theirs, replacement, calls)


def parameters(function: Any) -> list[str]:
    """Names of the parameters of a function, or of an autograd function's `forward` after `ctx`."""
    if inspect.isclass(function):
        return list(inspect.signature(inspect.getattr_static(function, "forward").__func__).parameters)[1:]
    return list(inspect.signature(function).parameters)


def fingerprint(*objects: Any) -> str:
    """Hash of the source code of functions or classes, without comments, docstrings and blank lines."""
    code = "\n".join(code_lines(inspect.getsource(found)) for found in objects)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def code_lines(source: str) -> str:
    """Source without docstrings, blank lines and lines that are only a comment.

    Example:
        >>> code_lines("def f():\\n    # one\\n    return 1\\n")
        'def f():\\n    return 1'
    """
    source = textwrap.dedent(source)
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            for number in range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1):
                lines[number - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
