"""Fingerprints of CUDA sources: equal ones are compiled to the same machine code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

INCLUDE = re.compile(r'^#include ["<](.+)[">]', re.MULTILINE)
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|("(?:\\.|[^"\\\n])*")', re.DOTALL)


def includes(source: Path) -> list[str]:
    return INCLUDE.findall(source.read_text(encoding="utf-8"))


def own_includes(source: Path) -> list[Path]:
    """The included files of this project, which are named relative to the source."""
    return [path for name in includes(source) if (path := (source.parent / name).resolve()).is_file()]


def reachable(source: Path) -> set[Path]:
    """The files of this project that a source includes, directly or not."""
    found: set[Path] = set()
    rest = [source]
    while rest:
        new = [path for path in own_includes(rest.pop()) if path not in found]
        found.update(new)
        rest.extend(new)
    return found


def code(text: str) -> str:
    """C++ code without comments, indentation and blank lines.

    Example:
        >>> code('int a;  // first\\n\\n  const char* url = "https://b";')
        'int a;\\nconst char* url = "https://b";'
    """
    bare = COMMENT_OR_STRING.sub(lambda found: found[1] or " ", text)
    return "\n".join(line for line in map(str.strip, bare.splitlines()) if line)


def fingerprint(source: Path, command: Sequence[str]) -> str:
    """Hash of a source's code, of that of its headers, and of the compiler with its flags.

    The headers of the toolkit and of torch are left out: the first have the version of the compiler, and no kernel uses
    code of the second.
    """
    codes = sorted(code(path.read_text(encoding="utf-8")) for path in {source.resolve(), *reachable(source)})
    return hashlib.sha256("\0".join((*command, *codes)).encode()).hexdigest()[:16]
