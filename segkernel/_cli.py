"""The command line: `segkernel train`, `segkernel inspect`, `segkernel info`."""

import argparse
import importlib
import platform
import sys
from collections.abc import Sequence

import segkernel

# Imported only when asked for: each needs the packages of `segkernel[train]`.
METHODS = {
    "pretrain": "segkernel.training.methods.pretrain",
    "reward": "segkernel.training.methods.reward",
    "segment-reward": "segkernel.training.methods.segment_reward",
    "dpo": "segkernel.training.methods.dpo",
    "asr-dpo": "segkernel.training.methods.asr_dpo",
    "rft": "segkernel.training.methods.rft",
    "asr-rft": "segkernel.training.methods.asr_rft",
    "aligndistil": "segkernel.training.methods.aligndistil",
    "ppo": "segkernel.training.methods.ppo",
    "asr-ppo": "segkernel.training.methods.asr_ppo",
    "segment-ppo": "segkernel.training.methods.segment_ppo",
    "token-ppo": "segkernel.training.methods.token_ppo",
    "r3hf-ppo": "segkernel.training.methods.r3hf_ppo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="segkernel", description=segkernel.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        add_help=False,
        allow_abbrev=False,
        help="train a language model, a reward model or a policy",
        description="Train by one of the methods. `segkernel train --method METHOD --help` lists its options.",
    )
    train.add_argument("--method", choices=METHODS, help="what to train")
    train.add_argument("-h", "--help", action="store_true", help="show this help, or the method's options")
    commands.add_parser("inspect", add_help=False, help="render segmented responses as HTML")
    commands.add_parser("info", help="show versions and backends")

    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "info" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if arguments.command == "info":
            print(info())
            return 0
        if arguments.command == "inspect":
            importlib.import_module("segkernel.training.cli.inspect").main(rest)
            return 0
        if arguments.method is None:
            if arguments.help:
                train.print_help()
                return 0
            train.error("the following arguments are required: --method")
        method = importlib.import_module(METHODS[arguments.method])
        trainer = method.build([*rest, "--help"] if arguments.help else rest)
    except (ImportError, ValueError, OSError) as error:
        # Nothing has been trained yet: what is wrong is in the arguments, the data or the installation.
        print(f"segkernel: error: {error}", file=sys.stderr)
        return 2
    try:
        importlib.import_module("segkernel.training.cli.launch").run(trainer, arguments.method)
    except KeyboardInterrupt:
        print("segkernel: interrupted; the same command with --resume_from_checkpoint last goes on", file=sys.stderr)
        return 130
    return 0


def info() -> str:
    """Versions, backends and devices, one per line; where a backend is not in use, why."""
    import torch

    from segkernel._library import cpu_isa, cuda_kernels

    code = [f"sm_{name.replace('.', '')}" for name in cuda_kernels.architectures]
    lines = [
        f"segkernel  {segkernel.__version__}",
        f"torch      {torch.__version__} ({f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'})",
        f"python     {platform.python_version()} ({platform.machine()})",
        f"cpu        loaded, {cpu_isa()}, {torch.get_num_threads()} threads",
        f"cuda       {f'not loaded: {cuda_kernels.problem}' if cuda_kernels.problem else 'loaded'}",
    ]
    if cuda_kernels.toolkit:
        lines.append(
            f"toolkit    CUDA {cuda_kernels.toolkit}: {', '.join(code)}, PTX {cuda_kernels.ptx} for newer GPUs"
        )
    lines.extend(f"device     {device}" for device in devices())
    return "\n".join(lines)


def devices() -> list[str]:
    """The GPUs that torch sees, and whether segkernel has code for them."""
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
