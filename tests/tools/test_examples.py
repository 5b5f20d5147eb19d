"""Examples: each runs as a program, and its results are as it says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")


def test_examples_are_short():
    for name in FILES:
        assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 90, name


def test_ops_in_your_own_loop_lowers_the_loss(capsys):
    from examples.ops_in_your_own_loop import main

    first, last, share = main()
    assert first == pytest.approx(0.6931, abs=1e-3)  # log 2: policy and reference are equal
    assert last < first - 0.2
    assert 0.2 < share < 0.8
    assert "% of the response tokens are trained on" in capsys.readouterr().out


def test_ops_in_your_own_loop_imports_no_transformers():
    code = "import sys, examples.ops_in_your_own_loop; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_numpy_arrow_adds_columns(capsys):
    pytest.importorskip("pyarrow")
    from examples.numpy_arrow import main

    found = main().to_pydict()
    assert found["segment_ids"] == [[0, 0, 1, 1], [], [0, 1]]
    assert found["segment_signs"] == [[1, -1], [], [-1, 1]]
    assert found["loss_mask"] == [[True, True, False, False], [], [True, False]]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_numpy_arrow_loads_no_torch():
    pytest.importorskip("pyarrow")
    code = "import sys, examples.numpy_arrow; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_reward_function_raises_the_share_of_its_good_word():
    pytest.importorskip("transformers")
    from examples.reward_function import main

    before, after = main()
    assert after > before + 0.2


def test_every_example_is_tested():
    """The examples for frameworks are tested by the files in tests/integrations."""
    here = ["numpy_arrow", "ops_in_your_own_loop", "reward_function"]
    frameworks = [
        *("llamafactory_segments", "ms_swift_plugin", "openrlhf_rewards", "skyrl_turn_grpo", "slime_rewards"),
        "trl_segment_dpo",
    ]
    assert sorted([*here, *frameworks]) == FILES
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "integrations").glob("test_*.py"))
    configurations = [path.stem for path in (ROOT / "examples").iterdir() if path.suffix in (".sh", ".toml", ".yaml")]
    assert len(configurations) == 5
    assert [name for name in [*frameworks, *configurations] if name not in tests] == []
