"""Peak memory of one forward + backward of the LM head, beyond its inputs and their gradients.

`python -m benchmarks.peak_memory IMPLEMENTATION` prints `extra_bytes logits_bytes`: the kernel's high-water mark of a
process of its own (Linux).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.bench_linear_token_logprobs import IMPLEMENTATIONS, TOKENS, VOCABULARY, inputs


def status(field: str) -> int:
    """A field of this process's memory, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(implementation: str) -> None:
    hidden, weight, labels = inputs()
    function = IMPLEMENTATIONS[implementation]
    function(hidden[:8], weight[:512], labels[:8] % 512).sum().backward()  # loads and allocates what is fixed
    hidden.grad = weight.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS") + hidden.nbytes + weight.nbytes  # the gradients are the caller's, whoever computes them
    function(hidden, weight, labels).sum().backward()
    print(max(0, status("VmHWM") - before), TOKENS * VOCABULARY * hidden.element_size())


if __name__ == "__main__":
    main(sys.argv[1])
