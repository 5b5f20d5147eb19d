"""Peak memory of one forward + backward of the LM head, beyond its inputs and their gradients.

`python -m benchmarks.peak_memory IMPLEMENTATION` prints `extra_bytes logits_bytes`: a process of its own, since the
peak of a process never falls.
"""

from __future__ import annotations

import resource
import sys

from benchmarks.bench_linear_token_logprobs import IMPLEMENTATIONS, TOKENS, VOCABULARY, inputs


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(implementation: str) -> None:
    hidden, weight, labels = inputs()
    function = IMPLEMENTATIONS[implementation]
    small = slice(0, 8)
    function(hidden[small], weight[:512], labels[small] % 512).sum().backward()  # loads and allocates what is fixed
    hidden.grad = weight.grad = None
    # The gradients are the caller's, whoever computes them: have them in the baseline.
    gradients = [tensor.detach().clone() for tensor in (hidden, weight)]
    before = peak_bytes()
    del gradients
    function(hidden, weight, labels).sum().backward()
    print(max(0, peak_bytes() - before), TOKENS * VOCABULARY * hidden.element_size())


if __name__ == "__main__":
    main(sys.argv[1])
