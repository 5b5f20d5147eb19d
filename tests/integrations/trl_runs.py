"""Short runs of TRL's trainers on a tiny model: their losses and gradients.

`python -m tests.integrations.trl_runs FOLDER` runs all of them, patched and not, and saves the results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerCallback

from segkernel import integrations
from tests.integrations.trl_steps import Steps
from tests.training.trainer_helpers import pairs, tiny_lm, tiny_tokenizer

KINDS = ("DPO", "SFT", "KTO", "GRPO", "RLOO")
TOKENIZER = tiny_tokenizer()
TOKENIZER.model_input_names = ["input_ids", "attention_mask"]  # transformers 4 adds token_type_ids


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a config: two steps of SGD, whose changes are proportional to the gradients."""
    return {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
        **changes,
    }


def model() -> LlamaForCausalLM:
    torch.manual_seed(7)
    return tiny_lm(TOKENIZER)


class Gradients(TrainerCallback):
    """Records the gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.steps.append({name: value.grad.clone() for name, value in named if value.grad is not None})


def run(kind: str, folder: Path, make_model: Callable[[], Any] = model, **changes: Any) -> Steps:
    """Logs and gradients of the steps of one trainer."""
    import trl

    policy = make_model()
    rows: list[dict[str, Any]] = pairs(8)
    trainer_kwargs: dict[str, Any] = {}
    config: dict[str, Any] = {}
    if kind == "SFT":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    elif kind == "KTO":
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
    elif kind in ("GRPO", "RLOO"):
        rows = [{"prompt": row["prompt"]} for row in rows]
        trainer_kwargs["reward_funcs"] = lambda completions, **kwargs: [float(len(set(text))) for text in completions]
        config = {"temperature": 0.7, "num_generations": 2, "max_completion_length": 6, "beta": 0.0}
    if kind in ("DPO", "KTO"):
        trainer_kwargs["ref_model"] = None if hasattr(policy, "peft_config") else make_model()
    gradients = Gradients()
    trainer = getattr(trl, f"{kind}Trainer")(
        policy,
        args=getattr(trl, f"{kind}Config")(**settings(folder, **config, **changes)),
        train_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
        callbacks=[gradients],
        **trainer_kwargs,
    )
    trainer.train()
    return [log for log in trainer.state.log_history if "loss" in log], gradients.steps


def run_head() -> Steps:
    """Loss, entropy and gradients of the model of asynchronous GRPO before TRL 1.15, which has a fused LM head."""
    from trl.trainer.utils import patch_chunked_lm_head

    policy = model()
    patch_chunked_lm_head(policy, chunk_size=64, temperature=0.7)
    ids = torch.arange(24).view(2, 12)
    outputs = policy(
        input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, completion_mask=ids % 12 > 4, use_cache=False
    )
    outputs["log_probs"].sum().backward()
    log = {name: outputs[name].sum().item() for name in ("log_probs", "entropy")}
    return [log], [{name: value.grad for name, value in policy.named_parameters() if value.grad is not None}]


def main(folder: Path) -> None:
    """Save the report of a verified patch, and for every trainer its steps with and without it, and the calls."""
    from trl.trainer import utils

    names = ("selective_log_softmax", "entropy_from_logits")
    originals = [getattr(utils, name, None) for name in names]
    rows = {row.target.rsplit(".", 1)[1]: tuple(row[2:]) for row in integrations.patch("trl", verify=True).rows}
    integrations.unpatch()
    result: dict[str, Any] = {"version": version("trl"), "rows": rows, "theirs": {}, "ours": {}, "calls": {}}
    runs: dict[str, Callable[[Path], Steps]] = {kind: partial(run, kind) for kind in KINDS}
    if hasattr(utils, "patch_chunked_lm_head"):
        runs["head"] = lambda folder: run_head()
    for kind, steps in runs.items():
        result["theirs"][kind] = steps(folder / "theirs")
        with integrations.patched("trl"):
            result["ours"][kind] = steps(folder / "ours")
            result["calls"][kind] = {
                row.target.rsplit(".", 1)[1]: (row.served, row.passed_back) for row in integrations.status().rows
            }
    holders = [utils, *(module for name, module in sys.modules.items() if name.startswith("trl."))]
    found = [vars(module)[name] for module in holders for name in names if name in vars(module)]
    result["restored"] = len(found) > 4 and all(any(one is each for each in originals) for one in found)
    torch.save(result, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
