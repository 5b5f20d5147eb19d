"""`segkernel info`: versions, backends and devices."""

import importlib
import importlib.metadata
import platform
from collections.abc import Sequence

import segkernel
from segkernel._arguments import CommandParser


def main(argv: Sequence[str]) -> int:
    """Run `segkernel info`."""
    CommandParser(prog="segkernel info", description="Show versions, backends and devices.").parse_args(argv)
    print(info())
    return 0


def info() -> str:
    """Versions, backends and devices, one per line; for a backend that is not loaded, the reason."""
    import torch

    from segkernel._library import cpu_isa, cuda_kernels

    code = [f"sm_{name.replace('.', '')}" for name in cuda_kernels.architectures]
    lines = [
        f"segkernel  {segkernel.__version__}",
        f"torch      {torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'})",
        f"python     {platform.python_version()} ({platform.machine()})",
        f"cpu        loaded, {cpu_isa()}, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}",
        f"cuda       {f'not loaded: {cuda_kernels.problem}' if cuda_kernels.problem else 'loaded'}",
    ]
    if cuda_kernels.toolkit:
        lines.append(
            f"toolkit    CUDA {cuda_kernels.toolkit}: {', '.join(code)}, PTX {cuda_kernels.ptx} for newer GPUs"
        )
    lines.append(f"training   {trainers()}")
    lines.extend(f"device     {device}" for device in devices())
    return "\n".join(lines)


def trainers() -> str:
    """Version of transformers, which the trainers are built on, or the packages that they lack."""
    try:
        importlib.import_module("segkernel.training")
    except ImportError as error:
        return f"not available: {error}"
    return f"transformers {importlib.metadata.version('transformers')}"


def devices() -> list[str]:
    """GPUs visible to torch, each with a note where segkernel holds no code for it."""
    import torch

    from segkernel._library import cuda_kernels

    if not torch.cuda.is_available():
        return ["no GPU that torch can use"]
    described = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        lacking = "" if cuda_kernels.run_on(capability) else ": segkernel was built without code for it"
        described.append(
            f"cuda:{index} {properties.name}, compute capability {capability[0]}.{capability[1]}, "
            f"{properties.total_memory / 2**30:.0f} GiB{lacking}"
        )
    return described
