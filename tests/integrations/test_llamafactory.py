"""LLaMA-Factory's log-probs, patched and not, in a process with a stand-in for the old TRL that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.peers import folder_of, python

CODE = """
import importlib, sys, types
from tests.integrations.call_peer import STAND_INS, StandInFinder
sys.path.append(sys.argv[1])
sys.meta_path.append(StandInFinder(STAND_INS["llamafactory"]))
scratch = sys.argv[2]
import omegaconf, torch, transformers
from datasets import Dataset, DatasetDict, load_from_disk
from examples import llamafactory_segments
from segkernel import integrations

utils = importlib.import_module("llamafactory.train.trainer_utils")
trainer = sys.modules["importer"] = types.ModuleType("importer")  # their trainers do not import with transformers 5.24
trainer.get_batch_logps = utils.get_batch_logps
theirs = [utils.get_batch_logps]  # in a list: a global of this module would be swapped as well
labels = torch.tensor([[-100, 3, 1, 0], [-100, -100, 2, -100], [-100] * 4, [4, 3, 2, 1]])

def results(**options):
    logits = torch.linspace(-3, 3, 80).view(4, 4, 5).requires_grad_()
    sums, counts = trainer.get_batch_logps(logits=logits, labels=labels, **options)
    return [sums, counts, *torch.autograd.grad((sums * torch.arange(1, 5)).sum(), logits)]

expected, with_alpha = results(), results(ld_alpha=0.5)
report = integrations.patch("llamafactory", verify=True)
assert report.rows[0].reason == "verified", report
assert trainer.get_batch_logps is utils.get_batch_logps is not theirs[0]
torch.testing.assert_close(results(), expected, rtol=1e-5, atol=1e-6)
torch.testing.assert_close(results(ld_alpha=0.5), with_alpha)
assert integrations.status().rows[0][1:] == (1, {"ld_alpha": 1})

# The example: its configuration in LLaMA-Factory's parser, and its labels.
parser = importlib.import_module("llamafactory.hparams.parser")
given = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load("examples/llamafactory_segment_dpo.yaml"))
given["output_dir"] = scratch
_, data, _, tuning, _ = transformers.HfArgumentParser(parser._TRAIN_ARGS).parse_dict(given)
assert (tuning.stage, tuning.pref_loss, data.tokenized_path) == ("dpo", "sigmoid", "data/segments")

loop = [1, 2, 3, 4, 1, 2, 3, 4, 0]  # only the last 4 completes a repetition
row = {"chosen_labels": [-100, -100, *loop], "rejected_labels": [-100, -100, *loop[:-1]]}
DatasetDict(train=Dataset.from_list([row])).save_to_disk(scratch + "/tokenized")
llamafactory_segments.main(scratch + "/tokenized", scratch + "/segments")
(row,) = load_from_disk(scratch + "/segments")["train"]
assert row["chosen_labels"] == [-100, -100, 1, 2, 3, 4, 1, 2, 3, -100, 0], row
assert row["rejected_labels"] == [-100] * 9 + [4], row
labels = torch.tensor([row["chosen_labels"], row["rejected_labels"] + [-100]])
logits = torch.linspace(-3, 3, 110).view(2, 11, 5)
sums, counts = trainer.get_batch_logps(logits=logits, labels=labels)
assert counts.tolist() == [8, 1], counts
table = logits[:, :-1].log_softmax(-1)
wanted = [sum(table[b, t - 1, token] for t, token in enumerate(labels[b]) if token != -100) for b in (0, 1)]
torch.testing.assert_close(sums, torch.stack(wanted))

integrations.unpatch()
assert trainer.get_batch_logps is utils.get_batch_logps is theirs[0]
"""


@pytest.mark.packages
def test_llamafactory_logps_agree_in_values_and_gradients_when_patched(tmp_path: Path) -> None:
    """Also on the labels of the example, whose configuration LLaMA-Factory's own parser takes."""
    python("-c", CODE, folder_of("llamafactory"), tmp_path, variables={"DISABLE_VERSION_CHECK": "1"})
