"""One file per operator: public function, fake kernel and, if it is differentiable, its derivative.

All of them are imported together because the derivative of an operator may be another operator.
"""

import importlib
import pkgutil

for _operator in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_operator.name}")
