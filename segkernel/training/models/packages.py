"""GGUF files that installed Python packages carry, found without importing the packages."""

import importlib.util
from importlib import metadata
from pathlib import Path

__all__ = ["gguf_files"]

GGUF = ".gguf"


def gguf_files(name: str) -> list[Path]:
    """GGUF files of an installed distribution, or of the folder of an importable package, of this name.

    Hyphens and underscores are equal. Empty if there is no such package, or none that carries a GGUF file.

    Example:
        >>> gguf_files("numpy"), gguf_files("no-such-package")
        ([], [])
    """
    found = (*_in_distribution(name), *_in_import_package(name))
    return sorted({file.resolve(): file for file in found if file.is_file()}.values())


def _in_distribution(name: str) -> list[Path]:
    try:
        files = metadata.distribution(name).files or []
    except (metadata.PackageNotFoundError, ValueError):  # of a name that no distribution can have
        return []
    return [Path(str(file.locate())) for file in files if file.suffix == GGUF]


def _in_import_package(name: str) -> list[Path]:
    """GGUF files next to the package's `__init__.py`, which an editable install does not record."""
    module = name.replace("-", "_")
    if not module.isidentifier():  # a dot would import the parent package
        return []
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # of a module without a spec, as `__main__`
        return []
    folders = spec.submodule_search_locations if spec is not None else None
    return [file for folder in folders or () for file in Path(folder).glob(f"*{GGUF}")]
