"""Update of verl's actor in two processes on the CPU: `python -m tests.integrations.verl_workers FOLDER`.

verl's training worker holds a model of one layer under FSDP2, with gloo in place of NCCL. It computes log-probs, verl's
trainer the advantages by `segkernel_asr_grpo`, and the worker updates the model with `segkernel_segment_ratio`, with
segkernel's functions in place of verl's. Log-probs and updated weights are those of a model in one process.

verl 0.9 has no platform for the CPU, so this program makes one, and takes the engine of CUDA. FSDP1 needs a GPU.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from segkernel import integrations
from segkernel.integrations.verl.credit import register
from tests.integrations.call_peer import StandInFinder

STAND_INS = {"aiohttp", "fastapi", "starlette", "uvicorn"}  # of the rollout servers
LR = 0.5
PROMPTS = torch.tensor([[0, 5], [3, 4], [0, 7], [2, 6]])
PROMPT_MASK = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]])
RESPONSES = torch.tensor([[3, 4, 9, 1], [2, 2, 8, 0], [5, 1, 0, 0], [9, 8, 7, 6]])
RESPONSE_MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
REWARDS = torch.tensor([[2.0, 2.0, -2.0, 1.0], [1.0, -2.0, 1.0, 0.0], [1.0, -1.0, 0.0, 0.0], [2.0, 2.0, -2.0, -1.0]])
# Scores 3 and 0, 0 and 1: advantages +1.5 and -1.5, -0.5 and +0.5, in the segments of their sign.
ADVANTAGES = torch.tensor([[1.5, 1.5, 0.0, 1.5], [0.0, -1.5, 0.0, 0.0], [0.0, -0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])


def make_model(folder: str) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes: Any = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=10, num_key_value_heads=2, tie_word_embeddings=False, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)


def use_cpu() -> None:
    """Make the CPU a platform of verl."""
    manager: Any = importlib.import_module("verl.plugin.platform.platform_manager")

    class CPU(manager.PlatformCUDA):
        device_name = "cpu"
        device_module = SimpleNamespace(
            is_available=lambda: False,
            empty_cache=lambda: None,
            memory_allocated=lambda: 0,
            memory_reserved=lambda: 0,
            mem_get_info=lambda: (0, 0),
            max_memory_allocated=lambda: 0,
            max_memory_reserved=lambda: 0,
            get_device_name=lambda: "CPU",
            current_device=lambda: "cpu",
        )

        def is_available(self) -> bool:
            return True

        def current_device(self) -> str:
            return "cpu"

        def communication_backend_name(self) -> str:
            return "gloo"

    manager.set_platform(CPU())


def make_worker(folder: str) -> Any:
    """verl's training worker, as its actor has it."""
    config: Any = importlib.import_module("verl.workers.config")
    workers: Any = importlib.import_module("verl.workers.engine_workers")
    losses: Any = importlib.import_module("verl.workers.utils.losses")
    model = config.HFModelConfig(
        path=folder,
        load_tokenizer=False,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "eager"},
    )
    precision = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
    engine = config.FSDPEngineConfig(
        strategy="fsdp2",
        mixed_precision=precision,
        use_torch_compile=False,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=1,
        infer_micro_batch_size_per_gpu=2,
    )
    optimizer = config.FSDPOptimizerConfig(
        lr=LR,
        optimizer="SGD",
        clip_grad=1e9,
        weight_decay=0.0,
        lr_warmup_steps=0,
        total_training_steps=10,
    )
    worker = workers.TrainingWorker(
        config.TrainingWorkerConfig(
            model_type="language_model",
            model_config=model,
            engine_config=engine,
            optimizer_config=optimizer,
            checkpoint_config=importlib.import_module("verl.trainer.config").CheckpointConfig(),
        )
    )
    worker.reset()
    actor = config.ActorConfig(
        strategy="fsdp2",
        rollout_n=2,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=config.PolicyLossConfig(loss_mode="segkernel_segment_ratio"),
    )
    worker.set_loss_fn(partial(losses.ppo_loss, config=actor))
    return worker


def make_batch() -> Any:
    """Batch as verl's rollout leaves it, with rewards of tokens."""
    protocol: Any = importlib.import_module("verl")
    attention = torch.cat([PROMPT_MASK, RESPONSE_MASK], 1)
    return protocol.DataProto.from_single_dict(
        {
            "prompts": PROMPTS,
            "responses": RESPONSES,
            "input_ids": torch.cat([PROMPTS, RESPONSES], 1),
            "attention_mask": attention,
            "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
            "response_mask": RESPONSE_MASK,
            "token_level_rewards": REWARDS,
            "uid": np.array(["a", "a", "b", "b"], dtype=object),
        }
    )


def of_rank(batch: Any, rank: int, **options: Any) -> Any:
    """A rank's part of a batch, as verl's workers get it."""
    utilities: Any = importlib.import_module("verl.utils.tensordict_utils")
    padding: Any = importlib.import_module("verl.workers.utils.padding")
    data = padding.left_right_2_no_padding(batch.to_tensordict())
    utilities.assign_non_tensor(data, temperature=1.0, **options)
    return utilities.chunk_tensordict(data, 2)[rank]


def train(rank: int, folder: str) -> None:
    """One update of the actor in one of two processes, and the comparison with a model in one process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    trainer: Any = importlib.import_module("verl.trainer.ppo.ray_trainer")
    padding: Any = importlib.import_module("verl.workers.utils.padding")
    worker, batch = make_worker(folder), make_batch()

    data = of_rank(batch, rank, calculate_entropy=True, compute_loss=False)
    found = padding.no_padding_2_padding(worker.infer_batch(data)["log_probs"], data)
    parts = [torch.empty_like(found) for _ in range(2)]
    torch.distributed.all_gather(parts, found.contiguous())
    batch.batch["old_log_probs"] = torch.cat(parts)

    config = {"norm_adv_by_std_in_grpo": False, "segkernel": {"delta": 0.5}}
    batch = trainer.compute_advantage(batch, "segkernel_asr_grpo", config=config)
    assert torch.equal(batch.batch["advantages"], ADVANTAGES), batch.batch["advantages"]

    options = {"global_batch_size": 4, "mini_batch_size": 4, "epochs": 1, "seed": 42, "compute_loss": True}
    result = worker.train_mini_batch(
        of_rank(batch, rank, calculate_entropy=False, dataloader_kwargs={"shuffle": False}, **options)
    )
    weights = {name: full(weight) for name, weight in worker.engine.module.state_dict().items()}
    if rank == 0:
        logprobs, updated, norm = expected(folder)
        mask = RESPONSE_MASK.bool()
        torch.testing.assert_close(batch.batch["old_log_probs"][mask], logprobs[mask], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weights, updated, rtol=1e-5, atol=1e-6)
        metrics = result["metrics"]
        print(f"grad_norm {np.mean(metrics['grad_norm']):.5f}, expected {norm:.5f}")
        print(integrations.status())
    torch.distributed.destroy_process_group()


def full(weight: Tensor) -> Tensor:
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def expected(folder: str) -> tuple[Tensor, dict[str, Tensor], float]:
    """Log-probs, weights after a step and norm of the gradient, of a model in one process."""
    from transformers import Qwen2ForCausalLM

    model: Any = Qwen2ForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids, attention = torch.cat([PROMPTS, RESPONSES], 1), torch.cat([PROMPT_MASK, RESPONSE_MASK], 1)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=attention, position_ids=positions).logits[:, 1:-1]
    logprobs = logits.log_softmax(-1).gather(-1, RESPONSES[..., None])[..., 0]
    (-(ADVANTAGES * logprobs).sum() / RESPONSE_MASK.sum()).backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters()])
    torch.optim.SGD(model.parameters(), lr=LR).step()
    return logprobs.detach(), {name: weight.detach() for name, weight in model.named_parameters()}, norm.item()


def main(folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["VERL_ENGINE_DEVICE"] = "cuda"
    make_model(folder)
    use_cpu()
    register()
    print(integrations.patch("verl"))
    for name in ("verl.trainer.ppo.ray_trainer", "verl.workers.engine_workers", "verl.workers.utils.losses"):
        importlib.import_module(name)
    start_processes(train, (folder,), nprocs=2, start_method="fork")


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2] / "build" / "peers" / "verl"))
    sys.meta_path.append(StandInFinder(STAND_INS))
    main(sys.argv[1])
