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
