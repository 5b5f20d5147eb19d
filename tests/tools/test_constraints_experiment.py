"""Experiment on the real model: a seed on a tiny random model."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

import torch
from transformers import LlamaConfig, LlamaForTokenClassification

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.constraints import __main__ as segments_command
from benchmarks.experiments.constraints import grammar, measures
from benchmarks.experiments.constraints.answers import Answer, answer_credit
from benchmarks.experiments.constraints.experiment import EXPERIMENT
from benchmarks.experiments.constraints.measures import measure_answers
from benchmarks.experiments.constraints.pair_selectors import TIS_DPO
from benchmarks.experiments.constraints.pairs import judge
from benchmarks.experiments.constraints.preferences import DPO, START
from benchmarks.experiments.constraints.rejection import RFT, rejection_trainer
from benchmarks.experiments.constraints.sample_selectors import SLM_RFT
from benchmarks.experiments.constraints.segmented import END, read_answers
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.constraints.stages import REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.policies.logprobs import gained, pair_logprobs
from examples.common.workers import quiet
from segkernel.training import RFTConfig, RFTTrainer
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.data.columns import SIDES
from segkernel.training.rewards.reward_model import prefix_scores, set_score_scale
from tests.quiet import restored_after_quiet
from tests.tools.constraints_model import write_model

ADVERSARIAL = "adversarial pairs"


@pytest.fixture(scope="module", autouse=True)
def restored_process():
    with restored_after_quiet():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path)
    return path


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A seed at minimal size, on adversarial pairs: its workspace and its results."""
    settings = replace(
        ConstraintsSettings().quick(),
        seeds=(0,),
        model=str(folder),
        trained_layers=2,
        prompts=10,
        samples=5,
        held_out_samples=5,
        reward_pairs=16,
        policy_pairs=16,
        batch_size=8,
        questions=4,
        measured_pairs=4,
    )
    root = tmp_path_factory.mktemp("constraints")
    conditions = {ADVERSARIAL: EXPERIMENT.conditions[ADVERSARIAL]}
    plan = Plan(replace(EXPERIMENT, settings=settings, conditions=conditions))
    with ThreadPoolExecutor(1, initializer=quiet) as pool:
        results = command.run(plan, root, pool, processes=1)
    return ConstraintsWorkspace(settings, root, 0), results


@pytest.mark.slow
def test_results_have_every_measure(finished):
    work, results = finished
    of = {entry["method"]: entry["per_seed"] for entry in results["methods"]}
    assert list(of) == [method.name for method in EXPERIMENT.methods]
    columns = {column.measure for column in EXPERIMENT.columns} - ({"lints"} if grammar.linter() is None else set())
    assert of["asr-dpo"].keys() == columns
    by_segments = {"segments", "true_segments", "masked_preference_accuracy"}
    assert of["dpo"].keys() == columns - by_segments
    for name in ("tis-dpo", "simpo", "confpo", "sepo"):
        assert of[name].keys() == columns - by_segments, name
    assert of["asr-rft"].keys() == columns - by_segments - {"chosen_trained", "rejected_trained"}
    shares = {column.measure for column in EXPERIMENT.columns if column.unit == "percent"}
    for per_seed in of.values():
        assert all(0 <= value <= 1 for name in shares & per_seed.keys() for value in per_seed[name])
    assert of["no training"]["kl"] == [0.0]
    assert of["dpo"]["kl"][0] > 0
    assert of["dpo"]["tokens_trained"] == of["simpo"]["tokens_trained"] == [1.0]
    for side in ("chosen_trained", "rejected_trained"):
        assert 0 < of["sepo"][side][0] <= 0.3
        assert 0 < of["confpo"][side][0] < 1
    assert of["true credit"]["mask_agreement"] == of["true-credit-rft"]["mask_agreement"] == [1.0]
    # ceil(0.6 n) of the n tokens of every micro-batch.
    assert of["slm-rft"]["tokens_trained"] == [pytest.approx(0.6, abs=0.02)]
    assert of["slm-rft"].keys() == of["random-rft"].keys()
    for name in ("ppo", "asr-ppo", "random-ppo", "entropy-ppo"):
        assert of[name].keys() == of["rft"].keys(), name
        assert of[name]["kl"][0] > 0, name
    assert of["ppo"]["tokens_trained"] == [1.0]
    assert of["random-ppo"]["tokens_trained"][0] == pytest.approx(of["asr-ppo"]["tokens_trained"][0], abs=0.08)
    # ceil(0.2 n) of the n tokens of every micro-batch.
    assert of["entropy-ppo"]["tokens_trained"] == [pytest.approx(0.2, abs=0.02)]
    trained = work.policy_pairs("adversarial")
    credit = {
        side: [sign for pair in trained for sign in answer_credit(work.tokenizer, getattr(pair, side).ids)]
        for side in SIDES
    }
    for side in SIDES:  # each token is kept by chance, so the share deviates from that of asr-dpo
        share = of["asr-dpo"][f"{side}_trained"][0]
        deviation = math.sqrt(share * (1 - share) / len(credit[side]))
        assert of["random-dpo"][f"{side}_trained"][0] == pytest.approx(share, abs=3 * deviation)
    right = credit["chosen"].count(1) + credit["rejected"].count(-1)
    total = len(credit["chosen"]) + len(credit["rejected"])
    assert of["dpo"]["mask_agreement"] == [pytest.approx(right / total)]
    signs = [answer_credit(work.tokenizer, getattr(pair, side).ids) for pair in trained for side in SIDES]
    changes = sum(one != other for row in signs for one, other in pairwise(row))
    assert of["asr-dpo"]["true_segments"] == [pytest.approx(60 * (changes + 2 * len(trained)) / total)]
    # The EOS has weight 0.
    assert of["tis-dpo"]["tokens_trained"] == [pytest.approx(1 - 2 * len(trained) / total)]
    # Rejected sides violate less.
    assert credit["rejected"].count(-1) < credit["chosen"].count(-1)


def gains(work, rows, *jobs):
    """Log-probability that the policies of jobs gained over the start model: chosen and rejected sides of all rows."""
    start, *trained = (pair_logprobs(model, rows) for model in (work.policy(), *map(work.policy, jobs)))
    return [
        tuple(sum(gained(old[s], new[s], None) for old, new in zip(start, after, strict=True)) for s in (0, 1))
        for after in trained
    ]


@pytest.mark.slow
def test_reference_models_of_tis_dpo_prefer_opposite_sides(finished):
    work, _ = finished
    job = TIS_DPO.job(0, EXPERIMENT.conditions[ADVERSARIAL])
    assert [needed.label for needed in job.needs] == ["dpo pairs=adversarial", "reverse dpo pairs=adversarial"]
    dpo, reverse = gains(work, work.training_rows("adversarial"), *job.needs)
    assert dpo[0] > dpo[1]
    assert reverse[0] < reverse[1]


@pytest.mark.slow
def test_reference_model_of_slm_rft_learned_the_preferred_answers(finished):
    work, _ = finished
    job = SLM_RFT.job(0, EXPERIMENT.conditions[ADVERSARIAL])
    assert [needed.label for needed in job.needs] == ["reward pairs=all", "preferred answers pairs=all"]
    ((chosen, _),) = gains(work, work.training_rows("all"), job.need("preferred answers"))
    assert chosen > 0
    unique = {(pair.prompt, pair.chosen.ids) for pair in work.policy_pairs("all")}
    assert work.finished(job.need("preferred answers")) == {"answers": len(unique)}


@pytest.mark.slow
def test_rejection_sampling_accepts_well_formed_answers_only(finished, monkeypatch):
    work, _ = finished
    # Stands for the form of an answer; the tiny model writes none that is well-formed.
    monkeypatch.setattr(Answer, "is_well_formed", property(lambda answer: len(answer.ids) % 2 == 0))

    def accepted(method):
        job = method.job(0, EXPERIMENT.conditions[ADVERSARIAL])
        rows = rejection_trainer(work, job, RFTTrainer, RFTConfig).train_dataset
        return [len(ids) % 2 == 0 for ids in rows["response_ids"]]

    every = accepted(RFT.with_options(acceptable="every answer"))
    assert 0 < sum(every) < len(every)
    assert all(accepted(RFT))


@pytest.mark.slow
def test_pairs_of_a_seed_follow_the_judge(finished):
    work, results = finished
    pairs, adversarial = work.pairs("all"), work.pairs("adversarial")
    assert len(pairs) > len(adversarial) > 0
    assert all(judge(pair.prompt, pair.chosen) > judge(pair.prompt, pair.rejected) for pair in pairs)
    assert adversarial == [pair for pair in pairs if pair.contradiction > 0.5]
    (stage,) = (stage["per_seed"] for stage in results["stages"] if stage["stage"] == "answers")
    assert (stage["pairs"], stage["adversarial"]) == ([len(pairs)], [len(adversarial)])
    assert len(work.policy_pairs("adversarial")) == min(16, len(adversarial))


@pytest.mark.slow
def test_answers_of_every_policy_are_kept(finished):
    work, results = finished
    of = {entry["method"]: entry["per_seed"] for entry in results["methods"]}
    for method in (START, DPO):
        kept = work.policy_answers(method.job(0, EXPERIMENT.conditions[ADVERSARIAL]))
        assert [prompt for prompt, _ in kept] == work.prompts("questions", 4, held_out=True)
        measured = measure_answers([one for _, (one,) in kept])
        assert {name: of[method.name][name] for name in measured} == {name: [value] for name, value in measured.items()}


@pytest.mark.slow
def test_segments_command_writes_the_first_pairs_of_different_prompts(finished, monkeypatch, capsys, tmp_path):
    work, _ = finished
    monkeypatch.setattr(segments_command, "EXPERIMENT", replace(EXPERIMENT, settings=work.settings))
    monkeypatch.setattr(ConstraintsSettings, "folder", lambda settings, output: work.folder.parent)
    data = tmp_path / "answers.json"
    assert segments_command.main(["--pairs", "2", "--output", str(data)]) == 0
    found = read_answers(data)
    assert [one.side for one in found] == ["chosen", "rejected"] * 2
    first = work.pairs("held out")[0]
    assert found[0].request == first.prompt.request
    texts = [one.text.replace("[UNK]", "").replace("[PAD]", "") for one in found]  # special tokens stay visible
    assert texts[:2] == [first.chosen.text + END, first.rejected.text + END]
    for one in found:
        assert [start for start, _, _ in one.segments] == [0, *(end for _, end, _ in one.segments[:-1])]
        assert one.segments[-1][1] == len(one.tokens)
    assert "data:image/png;base64," in (tmp_path / "answers" / "report.html").read_text()
    with pytest.raises(SystemExit):
        segments_command.main(["--seed", "9"])
    assert "--seed: expected a seed with a trained reward model in" in capsys.readouterr().err


def test_reward_model_of_a_job_scores_as_it_was_trained_to(tmp_path, monkeypatch):
    config = LlamaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=1)
    loaded = SimpleNamespace(reward_model=lambda folder: LlamaForTokenClassification(config))
    monkeypatch.setattr(ConstraintsWorkspace, "models", loaded)
    work, job = ConstraintsWorkspace(ConstraintsSettings(), tmp_path, 0), REWARD.job(0, {"pairs": "all"})
    work.store(job, {"score_scale": 0.25})
    model = work.reward_model(job).eval()
    ids, attention = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": attention, "position_ids": torch.arange(4).expand(2, 4)}
    batch["response_mask"] = torch.tensor([[False, True, True, True], [False, True, False, False]])
    with torch.no_grad():
        outputs = model(input_ids=ids, attention_mask=attention).logits[..., 0]
        scores = prefix_scores(model, batch)
    assert scores[0, 3].item() == pytest.approx(0.25 * outputs[0, 1:].sum().item(), abs=1e-6)
    assert scores[1, 1].item() == pytest.approx(0.25 * outputs[1, 1].item(), abs=1e-6)


class RewardPerToken(torch.nn.Module):
    """Reward model whose output at a token depends on the token alone."""

    device = torch.device("cpu")

    def __init__(self, rewards):
        super().__init__()
        self.rewards, self.config = rewards, SimpleNamespace()
        set_score_scale(self, 1.0)

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(
            logits=torch.tensor([[[self.rewards[one]] for one in row] for row in input_ids.tolist()])
        )


def test_violations_found_compares_tokens_of_violations_with_all_others(monkeypatch):
    def pair(chosen, rejected):
        return SimpleNamespace(prompt="", chosen=Answer(chosen, "", True), rejected=Answer(rejected, "", True))

    monkeypatch.setattr(measures, "prompt_ids", lambda tokenizer, prompt: [3, 4])
    monkeypatch.setattr(measures, "answer_credit", lambda tokenizer, ids: [-1 if one in (6, 9) else 1 for one in ids])
    monkeypatch.setattr(ResponseCollator, "of", lambda tokenizer: ResponseCollator(0))
    model = RewardPerToken({0: -9.0, 3: 5.0, 4: -5.0, 5: 1.0, 6: 0.0, 7: -1.0, 8: 2.0, 9: 0.5})
    work = SimpleNamespace(tokenizer=None, measured_batch=2)
    # The answer of both pairs counts once. Violations: 0, 0, 0.5; others: 1, -1, 2. Six of nine choices are right.
    pairs = [pair((5, 6, 7), (8, 6)), pair((5, 6, 7), (9,))]
    assert measures.violations_found(work, model, pairs) == pytest.approx(6 / 9)
