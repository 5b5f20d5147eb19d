"""Patch registry: replaces functions of other packages, and gives them back."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from segkernel.integrations.frameworks import FRAMEWORKS, SWITCH, turned_off
from segkernel.integrations.report import PatchReport, PatchRow, StatusReport, StatusRow
from segkernel.integrations.targets import Calls, Framework, Release, Target, fingerprint, parameters, replace
from segkernel.integrations.verification import disagreement


@dataclass
class Swap:
    """A target and its replacement.

    Args:
        framework: name of the framework.
        theirs: the original object, as the module or the class holds it.
        ours: the object in its place.
        owner: class whose method is replaced; None for an object that modules hold.
    """

    framework: str
    target: Target
    theirs: Any
    ours: Any
    owner: type | None
    calls: Calls = field(default_factory=Calls)
    note: str = ""


class Kept(Exception):
    """Reason why a target stays as it is."""


class NotReplaced(Exception):
    """Raised for a target that the user requested and that cannot be swapped."""


class Unknown(Kept):
    """Reason that is worth a warning: signature or source is none that segkernel was tested with."""


_lock = threading.RLock()  # held while targets are prepared and objects exchanged
_swaps: dict[str, Swap] = {}  # in place, by name of the target
_warned: set[str] = set()


def patch(*names: str, verify: bool = False) -> PatchReport:
    """Replace functions of frameworks by segkernel's operators.

    A function is replaced only if its signature and its source are known; otherwise it stays, with one warning. Every
    loaded module that holds it gets the replacement. Calls that segkernel does not serve, such as those on other
    devices, go to the original function; `status` counts them. Patching twice changes nothing, even in two threads at
    once.

    Args:
        names: frameworks, of `FRAMEWORKS`.
        verify: compare values and gradients of both functions on a small batch first, and keep theirs if they differ.
            A function of known signature but unknown source is replaced as well if they agree.

    Returns:
        The targets, and for each whether it is swapped or why it is kept; `print` shows a table.

    Raises:
        ValueError: no name, or one that is none of `FRAMEWORKS`.
        ImportError: a framework is not installed.
        NotReplaced: a function that the environment requested, by `SEGKERNEL_ADVANTAGES`, cannot be replaced.

    Example:
        >>> from segkernel import integrations
        >>> integrations.patch("pytorch")
        Traceback (most recent call last):
        ValueError: names: expected some of trl, verl, openrlhf, llamafactory, got 'pytorch'
    """
    return _patch(names, verify)[0]


def patch_module(name: str, module: str) -> PatchReport:
    """Replace the functions of one module of a framework, which has just been imported; otherwise as `patch`."""
    return _patch((name,), verify=False, module=module)[0]


@contextmanager
def patched(*names: str, verify: bool = False) -> Iterator[PatchReport]:
    """Context in which frameworks are patched; arguments and report as in `patch`.

    On exit, the objects that it swapped are back; those that were swapped before stay.
    """
    report, swaps = _patch(names, verify)
    try:
        yield report
    finally:
        _take_back(swaps)


def unpatch(*names: str) -> None:
    """Give back the original objects to all modules that hold a replacement.

    Args:
        names: frameworks; default: all.
    """
    _check_names(names or FRAMEWORKS)
    _take_back([swap for swap in list(_swaps.values()) if not names or swap.framework in names])


def status() -> StatusReport:
    """Calls of the replacements in place: how many segkernel served, and how many the originals did, by reason."""
    return StatusReport(
        tuple(StatusRow(name, swap.calls.served, dict(swap.calls.passed_back)) for name, swap in list(_swaps.items()))
    )


def _patch(names: Sequence[str], verify: bool, module: str | None = None) -> tuple[PatchReport, list[Swap]]:
    frameworks = _frameworks(names)
    if not turned_off():
        _import(frameworks, module)
    with _lock:
        return _patch_imported(frameworks, verify, module)


def _import(frameworks: Sequence[Framework], module: str | None) -> None:
    """Import the modules of the targets, before the lock: a thread that imports one of them may wait for the lock."""
    for framework in frameworks:
        for target in framework.targets_of(_major_minor(_version(framework))):
            if module in (None, target.module):
                with suppress(ImportError):  # the report says it
                    importlib.import_module(target.module)


def _patch_imported(
    frameworks: Sequence[Framework], verify: bool, module: str | None
) -> tuple[PatchReport, list[Swap]]:
    rows: list[PatchRow] = []
    swaps: list[Swap] = []
    for framework in frameworks:
        release = _version(framework)
        label = f"{framework.distribution} {release}"
        unknown: list[str] = []
        targets = framework.targets_of(_major_minor(release))
        if not targets and label not in _warned:
            _warned.add(label)
            warnings.warn(
                f"segkernel.integrations: {label} is older than the versions that segkernel was tested with; "
                "nothing is replaced",
                stacklevel=4,
            )
        for target in targets:
            if module not in (None, target.module):
                continue
            if target.name in _swaps:
                rows.append(PatchRow(target.name, label, True, "before"))
                continue
            try:
                swap = _prepare(framework.name, target, verify)
            except Kept as reason:
                if target.requested is not None:
                    raise NotReplaced(f"{target.name} of {label} cannot be replaced: {reason}") from reason
                rows.append(PatchRow(target.name, label, False, str(reason)))
                unknown += [target.name] if isinstance(reason, Unknown) else []
            else:
                swaps.append(swap)
                rows.append(PatchRow(target.name, label, True, swap.note))
        if unknown and label not in _warned:
            _warned.add(label)
            warnings.warn(
                f"segkernel.integrations: {label} differs from the versions that segkernel was tested with; kept "
                f"{', '.join(unknown)}",
                stacklevel=4,
            )
    _exchange([(swap.theirs, swap.ours, swap) for swap in swaps])
    _swaps.update({swap.target.name: swap for swap in swaps})
    return PatchReport(tuple(rows)), swaps


def _frameworks(names: Sequence[str]) -> list[Framework]:
    _check_names(names)
    return [importlib.import_module(FRAMEWORKS[name]).FRAMEWORK for name in dict.fromkeys(names)]


def _check_names(names: Collection[str]) -> None:
    expected = ", ".join(FRAMEWORKS)
    if not names:
        raise ValueError(f"names: expected some of {expected}, got none")
    for name in names:
        if name not in FRAMEWORKS:
            raise ValueError(f"names: expected some of {expected}, got {name!r}")


def _version(framework: Framework) -> str:
    try:
        return version(framework.distribution)
    except PackageNotFoundError:
        raise ImportError(
            f"{framework.name} is not installed: `pip install {framework.distribution}`", name=framework.name
        ) from None


def _major_minor(release: str) -> Release:
    major, minor = [*re.findall(r"\d+", release), "0", "0"][:2]
    return int(major), int(minor)


def _prepare(framework: str, target: Target, verify: bool) -> Swap:
    """Swap that is not in place yet.

    Raises:
        Kept: the target stays as it is.
    """
    if turned_off():
        raise Kept(f"{SWITCH}=0")
    try:
        theirs, owner = _find(target.module, target.attribute)
        sources = [_find(*name.rsplit(".", 1))[0] for name in target.sources]
    except ImportError as error:
        raise Kept(f"cannot be imported: {error}") from error
    except (AttributeError, KeyError) as error:
        raise Unknown("not found") from error
    if theirs is None:
        raise Kept("not available in this installation")
    names = parameters(theirs)
    if names != parameters(target.replacement)[: len(names)]:
        raise Unknown("unknown signature")
    unknown = fingerprint(theirs, *sources) not in target.known
    if unknown and not (verify and target.example):
        raise Unknown("unknown source")
    note = ""
    if verify and target.example:
        reason = disagreement(theirs, target)
        if reason:
            raise Kept(reason)
        note = "unknown source, verified" if unknown else "verified"
    calls = Calls()
    return Swap(framework, target, theirs, replace(theirs, target.replacement, calls), owner, calls, note)


def _find(module: str, attribute: str) -> tuple[Any, type | None]:
    """Object of a module, and the class that defines it, if it is a method."""
    holder: Any = importlib.import_module(module)
    *classes, name = attribute.split(".")
    for part in classes:
        holder = getattr(holder, part)
    if classes:
        return vars(holder)[name], holder
    return getattr(holder, name), None


def _take_back(swaps: Sequence[Swap]) -> None:
    with _lock:
        in_place = [swap for swap in swaps if _swaps.get(swap.target.name) is swap]
        _exchange([(swap.ours, swap.theirs, swap) for swap in in_place])
        for swap in in_place:
            del _swaps[swap.target.name]


def _exchange(exchanges: Sequence[tuple[Any, Any, Swap]]) -> None:
    """Put the second object of every exchange wherever a module, or the class of a method, holds the first.

    An object that another package has put in its place since stays.
    """
    in_modules: dict[int, tuple[Any, Any]] = {}
    for old, new, swap in exchanges:
        for registry in swap.target.registries:
            entries = _find(*registry.rsplit(".", 1))[0]
            entries.update({name: new for name, value in entries.items() if value is old})
        if swap.owner is None and swap.target.everywhere:
            in_modules[id(old)] = (old, new)
            continue
        holder = sys.modules[swap.target.module] if swap.owner is None else swap.owner
        name = swap.target.attribute.rsplit(".", 1)[-1]
        if vars(holder).get(name) is old:
            setattr(holder, name, new)
    if not in_modules:
        return
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            old, new = in_modules.get(id(value), (None, None))
            if old is not None and value is old:
                setattr(module, name, new)
