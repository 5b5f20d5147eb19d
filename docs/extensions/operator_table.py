"""Directive `operator-table`: every public function of a module, with the first sentence of its docstring.

The table is complete by construction: a new operator in `__all__` is a new row.
"""

import importlib
import inspect
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes


def first_sentence(function: object) -> str:
    """First sentence of a docstring.

    Example:
        >>> def f(): "One. Two."
        >>> first_sentence(f)
        'One.'
    """
    paragraph = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0]


class OperatorTable(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        functions = [(name, getattr(module, name)) for name in module.__all__]
        lines = [".. list-table::", "   :header-rows: 1", "", "   * - operator", "     - result"]
        for name, function in functions:
            if inspect.isfunction(function):
                lines += [f"   * - :py:func:`~{module.__name__}.{name}`", f"     - {first_sentence(function)}"]
        return nested_parse_to_nodes(self.state, StringList(lines, source="operator-table"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("operator-table", OperatorTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
