"""Values that a config refuses, before any model is loaded."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from segkernel.training.methods.registry import METHODS

INTEGERS = ("samples", "keep", "minibatches", "rollout_epochs", "max_new_tokens", "max_length", "normalizer_pairs")
REFUSED: dict[str, tuple[Any, ...]] = {
    "beta": (0, -1, math.inf),
    "rpo_alpha": (-0.1, math.inf),
    "rejected_weight": (-0.1, math.inf),
    "learning_rate": (-1e-3, math.inf),
    "per_device_train_batch_size": (0, -1),
    "per_device_eval_batch_size": (0,),
    "temperature": (0, math.inf),
    "delta": (-1,),
    "baseline": ("nan", "inf", "often"),
    "sequence_baseline": ("nan", "-inf"),
    "mix": (-0.1, 1.1),
    "clip_range": (0, math.inf),
    "value_clip_range": (0, math.inf),
    "kl_coef": (-1, math.inf),
    "gamma": (-0.1, math.inf),
    "fraction": (0, 1.1),
    "share": (0, 1.1),
    "rejected_share": (0, 1.1),
    "piece_length": (0.9, math.inf),
    "ratio_bound": (0, math.inf),
    "least_weight": (-0.1, math.inf),
    "weight_slope": (-0.1, math.inf),
    "report_pairs": (-1,),
    "strength": (-1, math.inf),
    "floor": (0, math.inf),
    **dict.fromkeys(INTEGERS, (0, 1.5, math.inf)),
}

# Options that have another range in one method.
REFUSED_IN = {("distill", "beta"): (-0.1, 1.1, math.inf)}


@pytest.mark.parametrize("method", METHODS)
def test_config_refuses_values_out_of_range_and_nan(tmp_path: Path, method: str) -> None:
    config_type, _ = METHODS[method].load()
    defaults = config_type(str(tmp_path), use_cpu=True)
    numbers = 0
    for option in dataclasses.fields(defaults):
        value = getattr(defaults, option.name)
        refused = list(REFUSED_IN.get((method, option.name), REFUSED.get(option.name, ())))
        if isinstance(value, int | float) and not isinstance(value, bool) and option.init:
            numbers += 1
            refused.append(math.nan)
        for wrong in refused:
            with pytest.raises(ValueError, match=f"^{option.name}: expected .*, got ") as error:
                config_type(str(tmp_path), use_cpu=True, **{option.name: wrong})
            assert "\n" not in str(error.value)
    assert numbers >= 20
