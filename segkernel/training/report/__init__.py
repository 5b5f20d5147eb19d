"""Self-contained HTML reports: curves, responses with their segments, rewards and loss masks, what ran."""

from segkernel.training.report.example import Example, example_from_segments
from segkernel.training.report.page import write_report
from segkernel.training.report.sample import Sample

__all__ = ["Example", "Sample", "example_from_segments", "write_report"]
