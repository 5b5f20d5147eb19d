"""Parts of the project and who includes or imports whom, read from the sources.

An arrow that follows from other arrows is left out (transitive reduction).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from style import HERE, INK, MUTED, save

ROOT = HERE.parents[1]
PYTHON, TORCH, PLAIN = "#dbe7f6", "#fbe6c9", "#d5ecdf"


class Box(NamedTuple):
    title: str
    subtitle: str
    x: float
    y: float
    width: float
    color: str


BOXES = {
    "training": Box("segkernel/training", "trainers, command line, report", 3.2, 0, 6.2, PYTHON),
    "losses": Box("losses", "pure functions", 0, 1.9, 2.7, PYTHON),
    "ops": Box("ops", "one wrapper per operator", 3.2, 1.9, 3.6, PYTHON),
    "reference": Box("reference", "pure PyTorch", 7.2, 1.9, 2.7, PYTHON),
    "numpy": Box("numpy.py", "NumPy arrays", 10.3, 1.9, 2.7, PYTHON),
    "checks": Box(
        "_validate, _tensors, _library, _enums, types", "argument checks, loaded libraries", 1.2, 3.8, 11.2, PYTHON
    ),
    "operators": Box(
        "csrc/ops/<op>/<op>_cpu.cpp, <op>_cuda.cu", "tensors in, tensors out; schemas.cpp", 0, 6.0, 9.4, TORCH
    ),
    "numpy_module": Box("numpy_module.cpp", "pybind11", 9.8, 6.0, 3.2, PLAIN),
    "torch": Box("csrc/torch", "arguments, outputs, threads", 0, 7.9, 4.4, TORCH),
    "cuda": Box("csrc/cuda", "scans, look-back", 0.6, 9.8, 3.2, PLAIN),
    "kernels": Box("csrc/ops/<op>/<op>.h, ...", "scalar definition, kernels", 5.2, 7.9, 7.8, PLAIN),
    "core": Box("csrc/core", "rows, dtypes, errors", 9.8, 9.8, 3.2, PLAIN),
    "simd": Box("csrc/simd", "vectors, bitmasks, exp2", 5.1, 9.8, 3.7, PLAIN),
}
HEIGHT = 1.1
SHARED = ("_validate", "_tensors", "_library", "_enums", "types")  # modules of the box "checks"
CALLS = (("ops", "operators", "torch.ops.segkernel"), ("numpy", "numpy_module", "segkernel._numpy"))


def draw(folder: Path = HERE) -> Path:
    figure, axes = plt.subplots(figsize=(8.2, 6.6))
    axes.set_xlim(-0.1, 13.1)
    axes.set_ylim(11.0, -0.2)
    axes.axis("off")
    axes.plot([-0.1, 13.1], [5.45, 5.45], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.text(0, 5.32, "Python", color=MUTED, fontsize=9)
    axes.text(0, 5.82, "C++", color=MUTED, fontsize=9)
    for above, below in sorted(reduced(python_edges() | cpp_edges())):
        arrow(axes, BOXES[above], BOXES[below])
    for above, below, label in CALLS:
        arrow(axes, BOXES[above], BOXES[below], dashed=True)
        box = BOXES[below]
        axes.text(
            center(BOXES[above], box) - 0.12,
            5.28,
            label,
            ha="right",
            fontsize=8.5,
            color=INK,
            family="DejaVu Sans Mono",
        )
    for box in BOXES.values():
        axes.add_patch(
            FancyBboxPatch(
                (box.x, box.y), box.width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", facecolor=box.color, lw=0
            )
        )
        middle = box.x + box.width / 2
        axes.text(middle, box.y + 0.4, box.title, ha="center", va="center", fontweight="bold", fontsize=9.5)
        axes.text(middle, box.y + 0.8, box.subtitle, ha="center", va="center", fontsize=8.5)
    return save(figure, "architecture", folder)


def center(a: Box, b: Box) -> float:
    """Horizontal position of an arrow: the middle of the overlap of two boxes, or of `a` if they do not overlap."""
    left, right = max(a.x, b.x), min(a.x + a.width, b.x + b.width)
    return (left + right) / 2 if right - left > 0.4 else a.x + a.width / 2


def arrow(axes: plt.Axes, above: Box, below: Box, *, dashed: bool = False) -> None:
    if above.y == below.y:
        start, end = (above.x + above.width, above.y + HEIGHT / 2), (below.x, below.y + HEIGHT / 2)
    else:
        x = center(above, below)
        start = (x, above.y + HEIGHT)
        end = (x if below.x < x < below.x + below.width else below.x + below.width / 2, below.y)
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=INK,
            linewidth=1,
            linestyle=(0, (4, 2)) if dashed else "solid",
            shrinkA=1,
            shrinkB=1,
        )
    )


def cpp_edges() -> set[tuple[str, str]]:
    """Pairs of boxes: a file of the first includes a file of the second."""
    csrc = ROOT / "csrc"
    files = {path for path in csrc.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu")}
    included = {file: {found for found in includes(file, csrc) if found in files} for file in files}
    boxes = {file: cpp_box(file, included) for file in files}
    edges = {(boxes[file], boxes[other]) for file, others in included.items() for other in others}
    return {(a, b) for a, b in edges if a != b}


def includes(file: Path, csrc: Path) -> Iterator[Path]:
    for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE):
        for folder in (file.parent, csrc):
            yield (folder / name).resolve()


def cpp_box(file: Path, included: dict[Path, set[Path]]) -> str:
    folder = file.relative_to(ROOT / "csrc").parts[0]
    if folder == "numpy_module.cpp":
        return "numpy_module"
    if folder == "ops" and not any("torch" in path.parts for path in reached(file, included)):
        return "kernels"
    return folder if folder in BOXES and folder != "ops" else "operators"


def reached(file: Path, included: dict[Path, set[Path]]) -> set[Path]:
    """Files that `file` includes, directly or not."""
    found: set[Path] = set()
    pending = [file]
    while pending:
        new = included[pending.pop()] - found
        found |= new
        pending += new
    return found


def python_edges() -> set[tuple[str, str]]:
    """Pairs of boxes: a module of the first imports a module of the second."""
    edges = set()
    for path in (ROOT / "segkernel").rglob("*.py"):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        box = python_box(module)
        if box is not None:
            edges |= {(box, other) for other in map(python_box, imports(path)) if other not in (None, box)}
    return edges


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ("segkernel.ops" if name.name == "segkernel" else name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def python_box(module: str) -> str | None:
    """Box of a module.

    Example:
        >>> python_box("segkernel.ops.gae"), python_box("segkernel._validate.tokens"), python_box("torch")
        ('ops', 'checks', None)
    """
    first, _, rest = module.partition(".")
    part = rest.split(".")[0]
    if first != "segkernel":
        return None
    return part if part in BOXES else "checks" if part in SHARED else None


def reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Edges without those that a longer path implies.

    Example:
        >>> sorted(reduced({("a", "b"), ("b", "c"), ("a", "c")}))
        [('a', 'b'), ('b', 'c')]
    """

    def reaches(start: str, end: str) -> bool:
        return any(a == start and (b == end or reaches(b, end)) for a, b in edges)

    return {(a, c) for a, c in edges if not any(a == start and b != c and reaches(b, c) for start, b in edges)}


if __name__ == "__main__":
    draw()
