"""TRL's own trainers, patched and not."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, PhiConfig, PhiForCausalLM

from segkernel import integrations
from segkernel.integrations.targets import PassBack
from segkernel.integrations.trl import SegmentPreferenceCollator, segment_masks
from segkernel.integrations.trl.heads import fused_head
from segkernel.integrations.trl.logits import selective_log_softmax
from segkernel.integrations.trl.swaps import FRAMEWORK
from tests.integrations.trl_steps import assert_same_steps

pytestmark = [pytest.mark.usefixtures("trl"), pytest.mark.packages]

SIDES = ("chosen", "rejected")


def sharded(weight: Tensor) -> Tensor:
    """Weight with the attribute by which DeepSpeed marks ZeRO-3 parameters."""
    weight.ds_id = 0  # type: ignore[attr-defined]
    return weight


HEAD = "trl.trainer.utils._ChunkedLogProbFunction"


@pytest.fixture(scope="module")
def run(trl: None) -> Any:
    from tests.integrations.trl_runs import run

    return run


@pytest.mark.parametrize("kind", ["DPO", "SFT", "KTO", "GRPO", "RLOO"])
def test_trl_trainer_gives_the_same_losses_metrics_and_gradients_when_patched(
    run: Any, kind: str, tmp_path: Path
) -> None:
    theirs = run(kind, tmp_path / "theirs")
    with integrations.patched("trl") as report:
        assert HEAD in report.swapped
        ours = run(kind, tmp_path / "ours")
        status = {row.target: row for row in integrations.status().rows}
    assert status[HEAD].served >= 2
    assert status[HEAD].passed_back == {}
    assert len(ours[0]) == len(ours[1]) == 2
    assert_same_steps(ours, theirs)


def with_softcap() -> Any:
    return small(Gemma2ForCausalLM, Gemma2Config, head_dim=8, final_logit_softcapping=0.5)


def with_logit_scale() -> Any:
    return small(CohereForCausalLM, CohereConfig, logit_scale=0.25)


def with_adapter() -> Any:
    from peft import LoraConfig, get_peft_model

    from tests.integrations.trl_runs import model

    base = model()
    return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))


def in_half_precision() -> Any:
    from tests.integrations.trl_runs import model

    return model().half()


def small(model: Any, config: Any, **options: Any) -> Any:
    """Model of one layer with tied embeddings."""
    from tests.integrations.trl_runs import TOKENIZER

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    ids = {"pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id, "bos_token_id": None}
    torch.manual_seed(7)
    return model(config(**sizes, **heads, **ids, vocab_size=len(TOKENIZER), **options))


@pytest.mark.parametrize("make_model", [with_softcap, with_logit_scale, with_adapter, in_half_precision])
@pytest.mark.parametrize("kind", ["DPO", "GRPO"])
def test_trl_trainer_of_other_models_gives_the_same_steps_when_patched(
    run: Any, kind: str, make_model: Any, tmp_path: Path
) -> None:
    """The reference of the model with an adapter is the model without; GRPO's prompts are padded on the left."""
    theirs = run(kind, tmp_path / "theirs", make_model)
    with integrations.patched("trl"):
        ours = run(kind, tmp_path / "ours", make_model)
        status = {row.target: row for row in integrations.status().rows}
    assert status[HEAD].served >= 2
    assert status[HEAD].passed_back == {}
    # Eight times the rounding of float16, from which TRL's gradients are as far as ours. CPUs round it differently.
    assert_same_steps(ours, theirs, share=2**-7 if make_model is in_half_precision else 0)


def with_bias() -> Any:
    policy = small(PhiForCausalLM, PhiConfig)
    torch.nn.init.normal_(policy.lm_head.bias)
    return policy


def with_trained_head() -> Any:
    from peft import LoraConfig, get_peft_model

    from tests.integrations.trl_runs import model

    base = model()
    return get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))


@pytest.mark.parametrize("make_model", [with_bias, with_trained_head])
def test_trl_trainer_of_a_head_with_bias_or_of_its_own_copy_gives_the_same_steps_when_patched(
    run: Any, make_model: Any, tmp_path: Path
) -> None:
    """By TRL's default, layers are recomputed in the backward pass (gradient checkpointing)."""
    theirs = run("DPO", tmp_path / "theirs", make_model)
    with integrations.patched("trl"):
        ours = run("DPO", tmp_path / "ours", make_model)
        (head,) = (row for row in integrations.status().rows if row.target == HEAD)
    assert (head.served, head.passed_back) == (4, {})
    assert any("lm_head" in name and gradient.any() for name, gradient in ours[1][0].items())
    assert_same_steps(ours, theirs)


def test_trl_head_reads_no_hidden_states_without_labels_when_patched(run: Any) -> None:
    """A row without labels may be NaN. TRL itself computes it on the CPU, and the gradient of its head becomes NaN."""
    from trl.trainer.utils import add_fused_lm_head

    from tests.integrations.trl_runs import model

    def poison(module: Any, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.index_fill(0, torch.tensor([1]), float("nan"))
        return output

    policy = model()
    add_fused_lm_head(policy)
    ids = torch.arange(24).view(2, 12)
    labels = ids.clone()
    labels[1], labels[0, :4] = -100, -100
    results = []
    for rows in (slice(0, 1), slice(0, 2)):
        policy.zero_grad()
        with integrations.patched("trl"):
            policy(input_ids=ids[rows], labels=labels[rows], fused_lm_head=True).loss.backward()
        results.append(policy.lm_head.weight.grad.clone())
        policy.model.register_forward_hook(poison)
    torch.testing.assert_close(results[1], results[0])
    assert results[0].any()


def test_trl_steps_of_the_benchmark_compare_heads_that_agree(run: Any) -> None:
    from benchmarks.cases.trl_steps import trl_steps
    from benchmarks.clock_gpu import RehearsalClock

    clock = RehearsalClock()
    works = []
    for case in trl_steps(clock.machine):
        works.append(case.work.partition(" of")[0])
        case.check()
        if len(works) == 4:
            found = dict(clock.measure(case))
            assert list(found) == ["segkernel", "TRL", "without the LM head"]
            assert not [row for row in found.values() if isinstance(row, Exception)]
    assert works == [f"TRL {trainer} step, {share}" for trainer in ("DPO", "GRPO", "SFT") for share in ("100%", "25%")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_trl_head_of_a_batch_without_labels_has_empty_outputs_and_zero_gradients(run: Any, dtype: torch.dtype) -> None:
    hidden, weight = torch.randn(0, 16, dtype=dtype).requires_grad_(), torch.randn(40, 16, dtype=dtype).requires_grad_()
    found = fused_head(hidden, weight, None, torch.zeros(0, dtype=torch.int64), 1.0, 16)
    assert [None if value is None else value.shape for value in found] == [torch.Size([0])] * 5
    gradients = torch.autograd.grad(found[0].sum() + found[1].sum(), (hidden, weight))
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype]
    assert not gradients[1].any()


def test_trl_functions_agree_in_values_and_gradients(trl: Path) -> None:
    report = integrations.patch("trl", verify=True)
    assert {row.target.rsplit(".", 1)[1]: row.reason for row in report.rows} == {
        "_ChunkedLogProbFunction": "verified",
        "_use_triton": "",
        "selective_log_softmax": "verified",
        "entropy_from_logits": "verified",
        "selective_log_softmax_and_entropy": "verified",
    }


def test_trl_modules_hold_the_very_objects_again_after_unpatch(run: Any) -> None:
    for name in ("dpo_trainer", "grpo_trainer"):
        importlib.import_module(f"trl.trainer.{name}")
    names = {target.attribute for target in FRAMEWORK.targets}

    def held() -> dict[tuple[str, str], Any]:
        modules = {name: vars(module) for name, module in list(sys.modules.items()) if name.startswith("trl.")}
        return {(module, name): objects[name] for module, objects in modules.items() for name in names & objects.keys()}

    before = held()
    integrations.patch("trl")
    swapped = {holder for holder, value in held().items() if value is not before[holder]}
    assert {("trl.trainer.utils", name) for name in names} <= swapped
    integrations.unpatch()
    after = held()
    assert [holder for holder, value in before.items() if after[holder] is not value] == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": torch.zeros(5, 3, device="meta")}, "device meta"),
        ({"hidden": torch.zeros(2, 3, dtype=torch.float64)}, "dtype float64"),
        ({"logit_scale": 0.0}, "logit_scale 0"),
        ({"outputs": ("log_probs", "varentropy")}, "output varentropy"),
        ({"weight": sharded(torch.zeros(5, 3))}, "ZeRO-3 weight"),
    ],
    ids=["device", "dtype", "logit_scale", "output", "ZeRO-3"],
)
def test_trl_head_passes_back_what_it_does_not_serve(changes: dict[str, Any], reason: str) -> None:
    arguments = {
        "hidden": torch.zeros(2, 3),
        "weight": torch.zeros(5, 3),
        "bias": None,
        "targets": torch.tensor([0, 4]),
    }
    with pytest.raises(PassBack, match=f"^{reason}$"):
        fused_head(**{**arguments, "temperature": 1.0, "chunk_size": 8, **changes})


@pytest.mark.parametrize("count", [0, 257])
def test_trl_log_softmax_passes_back_numbers_of_labels_that_the_kernels_refuse(count: int) -> None:
    with pytest.raises(PassBack, match=f"^{count} labels per position$"):
        selective_log_softmax(torch.zeros(2, 3, 9), torch.zeros(2, 3, count, dtype=torch.int64))


def test_trl_head_computes_in_the_dtype_of_autocast(run: Any) -> None:
    """float32 weights under bfloat16 autocast, as in training with bf16=True."""
    from trl.kernels import ChunkedLogProbFunction

    hidden, weight = torch.randn(6, 16).requires_grad_(), torch.randn(40, 16).requires_grad_()
    targets = torch.arange(6)
    results = []
    for function in (ChunkedLogProbFunction.apply, fused_head):
        with torch.autocast("cpu", torch.bfloat16):
            logprobs, *_ = function(hidden, weight, None, targets, 1.0, 16)
        results.append((logprobs, *torch.autograd.grad(logprobs.sum(), (hidden, weight))))
    for actual, expected in zip(results[1], results[0], strict=True):
        assert actual.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)


@pytest.fixture
def preference_rows(run: Any) -> list[dict[str, Any]]:
    """Pairs of token ids, with token rewards."""
    from tests.integrations.trl_runs import TOKENIZER
    from tests.training.trainer_helpers import pairs

    rows = []
    for row in pairs(4):
        prompt, *completions = (TOKENIZER(text)["input_ids"] for text in row.values())
        ids = {
            f"{side}_ids": [*tokens, TOKENIZER.eos_token_id] for side, tokens in zip(SIDES, completions, strict=True)
        }
        rewards = {f"{side}_token_rewards": torch.randn(len(ids[f"{side}_ids"])).tolist() for side in SIDES}
        rewards["chosen_token_rewards"][0] = 1.0  # no pair is without a token that is trained on
        rows.append({**row, "prompt_ids": prompt, **ids, **rewards})
    return rows


def test_segment_masked_dpo_in_trl_has_the_loss_and_gradients_of_asr_dpo(
    preference_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from segkernel.training import ASRDPOConfig, ASRDPOTrainer
    from tests.integrations.trl_runs import TOKENIZER, settings
    from tests.training.trainer_helpers import QUICK_PAIRS, tiny_lm

    def models() -> tuple[Any, Any]:
        return tiny_lm(TOKENIZER, seed=1), tiny_lm(TOKENIZER, seed=2)

    policy, reference = models()
    theirs = DPOTrainer(
        policy,
        reference,
        args=DPOConfig(**settings(tmp_path / "trl", beta=0.3, remove_unused_columns=False)),
        train_dataset=Dataset.from_list([{side: row[side] for side in ("prompt", *SIDES)} for row in preference_rows]),
        processing_class=TOKENIZER,
        data_collator=SegmentPreferenceCollator(DataCollatorForPreference(pad_token_id=TOKENIZER.pad_token_id)),
    )
    columns = {name: [row[name] for row in preference_rows] for name in preference_rows[0] if "rewards" in name}
    rows = theirs.train_dataset
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    rows = rows.map(partial(segment_masks, delta=0.4), batched=True)
    assert rows["chosen_ids"][:] == [row["chosen_ids"] for row in preference_rows]
    batch = theirs.data_collator(list(rows))
    assert 0 < batch["completion_mask"].sum() < sum(map(len, rows["chosen_ids"])) + sum(map(len, rows["rejected_ids"]))
    policy.eval()
    with integrations.patched("trl"):
        loss = theirs.compute_loss(policy, batch)
        loss.backward()

    ours_policy, ours_reference = models()
    args = ASRDPOConfig(
        output_dir=str(tmp_path / "ours"),
        beta=0.3,
        token_rewards="column",
        threshold_unit="reward",
        baseline=0.0,
        delta=0.4,
        **QUICK_PAIRS,
    )
    ids = [{name: row[name] for name in row if name not in ("prompt", *SIDES)} for row in preference_rows]
    trainer = ASRDPOTrainer(ours_policy, args, ids, ref_model=ours_reference)
    losses, _ = trainer.pair_losses(ours_policy.eval(), trainer.data_collator(list(trainer.train_dataset)))
    losses.mean().backward()
    assert loss.item() == pytest.approx(losses.mean().item(), rel=1e-5)
    assert loss.item() != pytest.approx(0.6931, abs=1e-3)
    for (name, one), other in zip(policy.named_parameters(), ours_policy.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_segment_masks_go_through_truncation_and_padding_with_the_tokens(run: Any) -> None:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    rows = [
        {
            "prompt_ids": [1, 2],
            "chosen_ids": [3, 4, 5],
            "rejected_ids": [6],
            "chosen_mask": [0, 1, 1],
            "rejected_mask": [1],
        },
        {
            "prompt_ids": [7],
            "chosen_ids": [8],
            "rejected_ids": [9, 9],
            "chosen_mask": [True],
            "rejected_mask": [True, False],
        },
    ]
    whole = SegmentPreferenceCollator(DataCollatorForPreference(pad_token_id=0))(rows)
    assert whole["completion_mask"].tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
    assert whole["input_ids"].tolist() == [[1, 2, 3, 4, 5], [7, 8, 0, 0, 0], [1, 2, 6, 0, 0], [7, 9, 9, 0, 0]]
    end = DataCollatorForPreference(pad_token_id=0, max_length=3, truncation_mode="keep_end")
    assert SegmentPreferenceCollator(end)(rows)["completion_mask"].tolist() == [
        [0, 1, 1],
        [0, 1, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]


def test_segment_masks_of_kto_leave_its_kl_estimate_whole(run: Any) -> None:
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    row = {"prompt_ids": [1], "completion_ids": [2, 3], "KL_completion_ids": [4, 5, 6], "label": True, "mask": [0, 1]}
    batch = SegmentPreferenceCollator(DataCollatorForUnpairedPreference(pad_token_id=0))([row])
    assert batch["completion_mask"].tolist() == [[0, 0, 1]]
    assert batch["KL_completion_mask"].tolist() == [[0, 1, 1, 1]]


def test_segment_masks_of_labeled_completions_follow_the_label() -> None:
    rows = {"token_rewards": [[1.0, -1.0], [1.0, -1.0]], "label": [True, False]}
    assert segment_masks(rows, delta=0.5) == {"mask": [[True, False], [False, True]]}
    with pytest.raises(ValueError, match=r"^rows: expected columns chosen_token_rewards .*, got label$"):
        segment_masks({"label": [True]}, delta=0.5)
    with pytest.raises(ValueError, match=r"^token_rewards: expected one number per token, got None in row 1$"):
        segment_masks({"token_rewards": [[], None], "label": [True, False]}, delta=0.5)
    assert segment_masks({"token_rewards": [[]], "label": [True]}, delta=0.5) == {"mask": [[]]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"chosen_mask": None},
            "chosen_mask: expected a column of one value per token, got .*remove_unused_columns=False",
        ),
        ({"chosen_mask": [1]}, "chosen_mask: expected 2 values, one per token of chosen_ids, got 1"),
    ],
    ids=["none", "short"],
)
def test_segment_preference_collator_names_a_bad_mask(changes: dict[str, Any], message: str) -> None:
    row = {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4], "chosen_mask": [1, 1], "rejected_mask": [1]}
    with pytest.raises(ValueError, match=f"^{message}"):
        SegmentPreferenceCollator(lambda rows: {"input_ids": 0, "completion_mask": 1})([{**row, **changes}])


def test_example_of_segment_masked_dpo_trains_on_the_rewarded_words(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.trl_segment_dpo import main

    rows, losses = main()
    assert rows["chosen_mask"][:] == [[True, True, False, False], [True, True, False]]
    assert rows["rejected_mask"][:] == [[True, False, True, False], [True, False, True, False]]
    assert losses[-1] < 0.6
    assert "_ChunkedLogProbFunction" in capsys.readouterr().out
