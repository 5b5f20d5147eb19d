"""Call functions of another package: `python call_peer.py FOLDER PACKAGE`.

FOLDER is on the path ahead of everything else. The packages in STAND_INS are replaced by empty ones if they are not
installed: the modules import them, but the functions under test use only torch. Every line of standard input is one
call, MODULE FUNCTION ARGUMENTS RESULT. ARGUMENTS and RESULT are files in the format of torch.save: the first holds
`(args, kwargs)`, the second receives the return value. A line on standard output follows each call.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from functools import reduce
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import torch

STAND_INS = {
    "trl": set(),
    "verl": {"codetiming", "hydra", "omegaconf", "orjson", "ray", "tensordict"},
    "llamafactory": {"av", "fire", "librosa", "modelscope", "torchaudio", "trl", "tyro"},
    "ms_swift": {
        *("addict", "aiohttp", "attrdict", "binpacking", "cpm_kernels", "dacite", "einops", "fastapi", "json_repair"),
        *("modelscope", "msgspec", "nltk", "openai", "oss2", "rouge", "sentencepiece", "simplejson", "tiktoken"),
        *("transformers_stream_generator", "uvicorn", "zstandard"),
    },
    "skyrl": {"aiohttp", "flash_attn", "httpx"},
    "openrlhf": {"aiohttp", "deepspeed", "flash_attn", "peft", "pylatexenc", "ray", "torchdata", "vllm"},
}
ABSENT = {"flash_attn.ops"}  # Triton kernels: without them, OpenRLHF computes with torch


class StandIn(ModuleType):
    """Module whose attributes are mocks, and classes that can be inherited from."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any = type(name, (), {}) if name[0].isupper() else MagicMock()
        setattr(self, name, value)
        return value


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for packages and their submodules; the last finder, so installed packages come first."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.packages or name in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def main(folder: str, package: str) -> None:
    sys.path.insert(0, folder)
    sys.meta_path.append(StandInFinder(STAND_INS[package]))
    for line in sys.stdin:
        module, function, arguments, result = line.split()
        args, kwargs = torch.load(arguments, weights_only=True)
        call: Any = reduce(getattr, function.split("."), importlib.import_module(module))
        torch.save(call(*args, **kwargs), result)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
