"""Segment-masked DPO in TRL, with segkernel's operators in TRL's LM head.

Run: `pip install trl`, then `python -m examples.trl_segment_dpo`. The token rewards are made up here: a word that
repeats the prompt's earns a point, any other costs one. The model is random and tiny.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from examples.reward_function import tiny_model
from segkernel import integrations
from segkernel.integrations.trl import SegmentPreferenceCollator, segment_masks

PAIRS = [
    {"prompt": "say yes", "chosen": " yes yes maybe", "rejected": " no yes no"},
    {"prompt": "say no", "chosen": " no no", "rejected": " maybe no yes"},
]
SIDES = ("chosen", "rejected")


def token_rewards(row: dict[str, Any], ends: tuple[int, ...] = (0,)) -> dict[str, list[float]]:
    """Columns `chosen_token_rewards` and `rejected_token_rewards`: one value per token, 0 for the end."""
    word = row["prompt_ids"][-1]
    return {
        f"{side}_token_rewards": [
            0.0 if token in ends else 1.0 if token == word else -1.0 for token in row[f"{side}_ids"]
        ]
        for side in SIDES
    }


def make_trainer(folder: str) -> Any:
    """DPO trainer whose loss reads only the tokens of the kept segments."""
    model, tokenizer = tiny_model()
    trainer = DPOTrainer(
        model,
        args=DPOConfig(
            output_dir=folder,
            remove_unused_columns=False,  # the collator reads the masks
            max_steps=10,
            learning_rate=1e-2,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        ref_model=tiny_model()[0],
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer,
        data_collator=SegmentPreferenceCollator(DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)),
    )
    rows = trainer.train_dataset.map(token_rewards)  # after TRL has tokenized them
    trainer.train_dataset = rows.map(partial(segment_masks, delta=0.5, hold=False), batched=True)
    return trainer


def main() -> tuple[Any, list[float]]:
    """Train with patched TRL; the trainer's rows, and the losses."""
    with tempfile.TemporaryDirectory() as folder, integrations.patched("trl") as report:
        print(report)
        trainer = make_trainer(folder)
        trainer.train()
        print(integrations.status())
    return trainer.train_dataset, [log["loss"] for log in trainer.state.log_history if "loss" in log]


if __name__ == "__main__":
    main()
