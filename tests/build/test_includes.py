"""Layers of the C++ sources, by their includes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cuda_audit.fingerprint import includes, own_includes, reachable

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu")]


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
