"""Layers of the C++ sources, by their includes."""

from __future__ import annotations

import re
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu")]
INCLUDE = re.compile(r'^#include ["<](.+)[">]', re.MULTILINE)


def includes(source: Path) -> list[str]:
    return INCLUDE.findall(source.read_text())


def own_includes(source: Path) -> list[Path]:
    """The included files of csrc/, which are named relative to the source."""
    return [path for name in includes(source) if (path := (source.parent / name).resolve()).is_file()]


def reachable(source: Path) -> set[Path]:
    """The files of csrc/ that `source` includes, directly or not."""
    found: set[Path] = set()
    rest = [source]
    while rest:
        new = [path for path in own_includes(rest.pop()) if path not in found]
        found.update(new)
        rest.extend(new)
    return found


def room(path: Path) -> str:
    """The folder under csrc/ that holds a file: "core", "ops", ..."""
    return path.relative_to(CSRC).parts[0]


def test_torch_headers_are_included_by_the_torch_folder_only() -> None:
    assert {room(source) for source in SOURCES if any(name.startswith("torch/csrc") for name in includes(source))} == {
        "torch"
    }


def test_core_includes_core_only() -> None:
    assert {room(path) for source in SOURCES if room(source) == "core" for path in own_includes(source)} == {"core"}


def test_simd_cuda_and_torch_do_not_include_operators() -> None:
    allowed = {"simd": {"core", "simd"}, "cuda": {"core", "simd", "cuda"}, "torch": {"core", "simd", "cuda", "torch"}}
    for source in SOURCES:
        if room(source) in allowed:
            assert {room(path) for path in own_includes(source)} <= allowed[room(source)], source


def test_device_headers_are_included_by_device_code_only() -> None:
    including = {source.suffix for source in SOURCES if any(name.endswith(".cuh") for name in includes(source))}
    assert including == {".cu", ".cuh"}


def test_row_kernels_include_no_torch() -> None:
    """The NumPy module is built from them without torch."""
    assert "torch" not in {room(path) for path in reachable(CSRC / "numpy_module.cpp")}


def test_every_header_is_reached_from_a_source() -> None:
    sources = [source for source in SOURCES if source.suffix in (".cpp", ".cu")]
    reached = set().union(*map(reachable, sources))
    assert {source for source in SOURCES if source.suffix in (".h", ".cuh")} <= reached
