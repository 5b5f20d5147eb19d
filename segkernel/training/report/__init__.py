"""Self-contained HTML reports: loss curves, and responses with their segments, rewards and loss masks."""

from segkernel.training.report.example import Example, example_from_segments
from segkernel.training.report.page import write_report

__all__ = ["Example", "example_from_segments", "write_report"]
