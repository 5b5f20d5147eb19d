import gc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import settings

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, on_the_cpu

if BACKEND == "cuda":
    torch.set_default_device("cuda")
    for name in reference.__all__:
        setattr(reference, name, on_the_cpu(getattr(reference, name)))

settings.register_profile("segkernel", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("segkernel")


def pytest_report_header() -> str:
    return f"segkernel: {segkernel.__file__}, kernels: {BACKEND}"


def pytest_collection_finish() -> None:
    """Exempt the imported modules from garbage collection, which `Trainer.train` runs at the end of every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20241101)


@pytest.fixture
def value_checks() -> Iterator[None]:
    """For tests of bad values: the CPU's operators check them, CUDA's leave that to `debug()`."""
    with nullcontext() if BACKEND == "cpu" else segkernel.debug():
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Tokenizer of the trainer tests. The tests of a module share it, so none may change it."""
    from tests.training.trainer_helpers import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
