import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("segkernel", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("segkernel")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20241101)


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def own_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled code must come from the kernels under test, not from an earlier run."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))
