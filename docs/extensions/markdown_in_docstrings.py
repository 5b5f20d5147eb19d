"""Markdown tables of docstrings, as reStructuredText tables, which autodoc expects."""

from itertools import groupby

from sphinx.application import Sphinx


def cells(row: str) -> list[str]:
    """Cells of one row.

    Example:
        >>> cells("| `ids` | int32 |")
        ['`ids`', 'int32']
    """
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def list_table(rows: list[str]) -> list[str]:
    """Markdown table as a `list-table` directive.

    Example:
        >>> print("\\n".join(list_table(["| a | b |", "| --- | --- |", "| 1 | 2 |"])))
        .. list-table::
           :header-rows: 1
        <BLANKLINE>
           * - a
             - b
           * - 1
             - 2
        <BLANKLINE>
    """
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        first, *others = cells(row)
        lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
    return [*lines, ""]


def convert(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Handler of `autodoc-process-docstring`: rewrites `lines` in place."""
    converted: list[str] = []
    for is_table, group in groupby(lines, key=lambda line: line.startswith("| ")):
        rows = list(group)
        converted += list_table(rows) if is_table else rows
    lines[:] = converted


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
