"""Names of models: local paths and names on the Hugging Face Hub."""

from pathlib import Path


def check_directory(path: str, name: str) -> None:
    """Refuse a missing local path, which transformers would look up on the hub."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if not Path(path).is_dir() and looks_local:
        raise FileNotFoundError(f"{name}: there is no directory {path!r}")
