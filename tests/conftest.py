import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# The operators' tests run on this device, before they ask for it: their tensors are made on torch's default device.
torch.set_default_device(os.environ.get("SEGKERNEL_TEST_DEVICE", "cpu"))

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
