"""HTML report: values per token, self-containedness, and robustness to unusual input."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from segkernel.reference import segment
from segkernel.training.report import Example, Sample, example_from_segments, write_report
from segkernel.training.report.charts import Curve, collect_curves, curve_chart, reward_trace
from segkernel.training.report.page import token_columns
from segkernel.training.report.sample import extremes
from segkernel.training.report.text import visible_text

pytestmark = pytest.mark.charts

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects tokens, text and everything that would load from elsewhere."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.tokens: list[tuple[str, str, str]] = []  # classes, text, tooltip
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.loaded += [value for name, value in found.items() if name in ("src", "href") and value[:1] != "#"]
        if tag not in VOID:
            self.open.append(tag)
        classes = found.get("class", "").split()
        if tag == "span" and "t" in classes and "title" in found:
            self.tokens.append((" ".join(classes[1:]), "", found["title"]))
        self.in_text = classes == ["text"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.in_text = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if getattr(self, "in_text", False) and self.tokens and self.tokens[-1][1] == "":
            classes, _, title = self.tokens[-1]
            self.tokens[-1] = (classes, data, title)


def example(**changes: object) -> Example:
    values: dict[str, object] = {
        "prompt": "2+2=, 3+3=",
        "label": "chosen",
        "tokens": ["4", ";", "7", ";"],
        "token_rewards": [1.0, 0.25, -1.5, 0.0],
        "ids": [0, 0, 1, 1],
        "signs": [1, -1],
        "kept": [True, True, False, False],
        "baseline": 0.0,
        "low": -0.5,
        "high": 0.5,
    }
    return Example(**{**values, **changes})


def render(tmp_path: Path, *examples: Example, **arguments: object) -> str:
    return write_report(tmp_path, title="a report", examples=examples, **arguments).read_text(encoding="utf-8")


def test_tokens_show_segment_sign_reward_and_mask(tmp_path):
    page = Page(render(tmp_path, example()))
    assert page.tokens == [
        ("plus kept start", "4", "token 0, segment 0 (+), reward 1, trained on"),
        ("plus kept", ";", "token 1, segment 0 (+), reward 0.25, trained on"),
        ("minus masked start", "7", "token 2, segment 1 (\N{MINUS SIGN}), reward -1.5, masked out"),
        ("minus masked", ";", "token 3, segment 1 (\N{MINUS SIGN}), reward 0, masked out"),
    ]
    assert "2 tokens trained on (50 %)" in page.text
    assert "2 segments" in page.text


def test_bars_span_from_baseline_to_reward():
    # The scale runs from -1.5 to 1.0: 2.5 units of reward are 100 %.
    bars = [(column["bottom"], column["height"]) for column in token_columns(example())]
    assert bars == [(60.0, 40.0), (60.0, 10.0), (0.0, 60.0), (60.0, 0.0)]
    assert {(column["low"], column["high"]) for column in token_columns(example())} == {(40.0, 80.0)}


def test_page_loads_no_other_files(tmp_path):
    history = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]
    html = render(tmp_path, example(), log_history=history)
    page = Page(html)
    assert page.loaded == []
    assert not page.tags & {"script", "link", "iframe", "img"}
    assert "url(http" not in html
    assert "@import" not in html
    assert "svg" in page.tags


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '" onmouseover="x', "&amp;", "</span></div>"])
def test_page_escapes_text_of_the_data(tmp_path, text):
    changes = {"prompt": text, "label": text, "tokens": [text, ";", "7", ";"]}
    page = Page(render(tmp_path, example(**changes), summary={text: text}, description=text, log_history={text: []}))
    assert page.tokens[0][1] == text
    assert "script" not in page.tags
    # Prompt, label, token, its tick under the trace, summary (twice) and description.
    assert page.text.count(text) >= 6


def test_dollar_signs_are_not_math_text(tmp_path):
    page = Page(render(tmp_path, example(tokens=["$\\frac$", "$", "7", "\n"])))
    assert [token[1] for token in page.tokens] == ["$\\frac$", "$", "7", "↵"]


def test_nonfinite_rewards_are_marked(tmp_path):
    rewards = [math.nan, math.inf, -1.0, 0.5]
    page = Page(render(tmp_path, example(token_rewards=rewards)))
    assert [token[2].split(", ")[2] for token in page.tokens] == ["reward nan", "reward inf", "reward -1", "reward 0.5"]
    assert [column["known"] for column in token_columns(example(token_rewards=rewards))] == [False, True, True, True]
    Page(render(tmp_path, example(token_rewards=[math.nan] * 4, baseline=None, low=None, high=None)))


def test_empty_response_is_named_empty(tmp_path):
    page = Page(render(tmp_path, example(tokens=[], token_rewards=[], ids=[], signs=[], kept=[])))
    assert "empty response" in page.text
    assert page.tokens == []


def test_responses_with_equal_prompts_share_a_card(tmp_path):
    both = (example(), example(label="rejected"), example(prompt="another"))
    assert render(tmp_path, *both).count("<article") == 2


def test_example_from_segments_reads_one_padded_row():
    rewards = torch.tensor([[9.0, 9.0, 9.0], [math.nan, 1.0, -1.0]])
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    segments = segment(rewards, mask, baseline=0.0, delta=0.5, sequence_sign=torch.tensor([1, -1]))
    found = example_from_segments("p", "rejected", ["a", "b"], [1.0, -1.0], segments, row=1, baseline=0.0, delta=0.5)
    assert (found.ids, found.signs, found.kept) == ([0, 1], [1, -1], [False, True])
    assert (found.low, found.high) == (-0.5, 0.5)
    assert found.spans() == [(0, 1, 1), (1, 2, -1)]
    with pytest.raises(ValueError, match=r"tokens: expected 2, one per valid position of row 1, got 3"):
        example_from_segments("p", "rejected", ["a", "b", "c"], [1.0, -1.0, 0.0], segments, row=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": [True]}, r"kept: expected one value per token \(4\), got 1"),
        ({"ids": [0, 1, 0, 1]}, "ids: expected values that never decrease"),
        ({"ids": [0, 0, 1, 2]}, r"ids: expected values in \[0, 2\)"),
        ({"signs": [1, 2]}, r"signs: expected -1, 0 or \+1"),
    ],
)
def test_example_refuses_inconsistent_values(changes, message):
    with pytest.raises(ValueError, match=message):
        example(**changes)


def test_collect_curves_merges_train_and_eval():
    history = [
        {"step": 10, "loss": 0.7, "grad_norm": 2.0, "epoch": 0.1},
        {"step": 10, "eval_loss": 0.65, "eval_runtime": 3.0, "eval_x_low": 0.1},
        {"step": 20, "loss": 0.5, "grad_norm": 1.0, "epoch": 0.2},
        {"step": 20, "train_runtime": 9.0, "train_loss": 0.6, "total_flos": 1.0},
    ]
    metrics = collect_curves({"a": history, "b": history[:1]})
    assert list(metrics) == ["loss", "grad_norm"]  # timings and bounds have no curve
    found = [(curve.run, curve.split, curve.steps, curve.values) for curve in metrics["loss"]]
    assert found == [
        ("a", "train", [10.0, 20.0], [0.7, 0.5]),
        ("a", "eval", [10.0], [0.65]),
        ("b", "train", [10.0], [0.7]),
    ]


def test_curve_chart_color_depends_on_the_run_only():
    svg = curve_chart([Curve("b", "train", "", [1.0, 2.0], [1.0, 2.0])], ["a", "b"])
    assert "var(--series-2)" in svg
    assert "var(--series-1)" not in svg


def test_sides_of_a_pair_and_rollouts_share_a_chart_with_held_out_rows():
    history = [
        {"step": 1, "rewards/chosen": 0.25, "rewards/rejected": -0.5, "rollout/kl": 0.125},
        {"step": 1, "eval_rewards/chosen": 0.75, "eval_kl": 0.0625},
    ]
    charts = collect_curves({"": history})
    assert {name: [(c.label, c.values) for c in curves] for name, curves in charts.items()} == {
        "rewards": [("chosen", [0.25]), ("rejected", [-0.5]), ("chosen held out", [0.75])],
        "kl": [("training", [0.125]), ("held out", [0.0625])],
    }


def test_charts_have_the_colors_of_the_page():
    curves = [Curve("", "train", part, [1.0, 2.0], [1.0, 2.0]) for part in ("chosen", "rejected")]
    for svg in (curve_chart(curves, [""]), reward_trace(example())):
        assert "var(--muted)" in svg
        # Fixed colors would be illegible on one of the two backgrounds: neither black text nor a white background.
        assert re.findall(r"(?:fill|stroke): (?:#\w+|black|white)", svg) == []


def test_main_charts_are_shown_and_the_others_folded(tmp_path):
    history = [
        {
            "step": step,
            "loss": 1 / step,
            "rewards/accuracies": 0.5,
            "grad_norm": 1.0,
            "skipped_steps": 0,
            "kept_chosen": 1,
        }
        for step in (1, 2)
    ]
    shown, folded = render(tmp_path, log_history=history).split("<details>")
    assert re.findall("<figcaption>(.*?)</figcaption>", shown) == ["loss", "accuracy <code>rewards/accuracies</code>"]
    assert re.findall("<code>(.*?)</code>", folded.split("</details>")[0]) == ["skipped_steps", "kept", "grad_norm"]
    assert "3 more curves" in folded


def test_charts_of_unknown_metrics_are_all_shown(tmp_path):
    html = render(tmp_path, log_history={"dpo": [{"step": 1, "parts right, %": 50.0}]})
    assert "<figcaption>parts right, %</figcaption>" in html
    assert "<details>" not in html


def test_summary_rows_are_a_table(tmp_path):
    html = render(tmp_path, summary=[{"measure": "right", "start": 0.123456, "end": None}])
    assert '<th scope="col">start</th>' in html
    assert '<tr><th scope="row">right</th><td>0.1235</td><td>-</td></tr>' in html


def test_inspect_reads_token_rewards_from_columns(tmp_path, capsys):
    from examples.capitals.task import make_tokenizer
    from segkernel.training.cli.inspect import main

    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    row = {
        "prompt": "Peru, Iran? ",
        "chosen": "Lima; Baghdad; ",
        "rejected": "Cusco",
        "chosen_token_rewards": [1, 0, -1, 0],
        "rejected_token_rewards": [-1],
    }
    data, output = tmp_path / "pairs.jsonl", tmp_path / "page.html"
    data.write_text((json.dumps(row) + "\n") * 2, encoding="utf-8")
    options = ["--token_rewards", "column", "--baseline", "0", "--delta", "0.5", "--threshold_unit", "reward"]
    paths = ["--preferences", str(data), "--tokenizer", str(tmp_path / "tokenizer"), "--output", str(output)]
    main([*paths, *options, "--rows", "1"])
    printed = capsys.readouterr()
    assert printed.out == f"report: {output}\n"
    assert printed.err == ""
    page = Page(output.read_text(encoding="utf-8"))
    # Each response ends with the tokenizer's EOS, which has its last token's reward.
    assert [(classes, text) for classes, text, _ in page.tokens] == [
        ("plus kept start", "Lima"),
        ("plus kept", "; "),
        ("minus masked start", "Baghdad"),
        ("minus masked", "; "),
        ("minus masked", "<|end|>"),
        ("minus kept start", "Cusco"),
        ("minus kept", "<|end|>"),
    ]


def test_inspect_shows_the_rewards_that_a_policy_implies(tmp_path, capsys):
    from segkernel.training.cli.inspect import main
    from tests.training.trainer_helpers import tiny_lm, tiny_tokenizer, write_jsonl

    tokenizer = tiny_tokenizer()
    models = {name: tiny_lm(tokenizer, seed).eval() for seed, name in enumerate(("start", "policy"))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    data = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "2+2=", "chosen": "4", "rejected": "5, 5"}] * 2)
    paths = {"preferences": data, "reward_policy": tmp_path / "policy", "model": tmp_path / "start"}
    page = tmp_path / "page.html"
    options = ["--reward_policy_beta=0.5", "--threshold_unit=reward", "--baseline=0", "--delta=0", "--rows=1"]
    main([*(f"--{name}={path}" for name, path in paths.items()), f"--output={page}", *options])
    assert capsys.readouterr().err.count("segments: half of them") <= 1
    shown = Page(page.read_text(encoding="utf-8"))
    assert f"policy {tmp_path / 'policy'}" in shown.text
    expected = []
    for response in ("4", "5, 5"):
        prompt, ids = tokenizer("2+2=")["input_ids"], tokenizer(response)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            logits = [models[name](torch.tensor([prompt + ids])).logits[0] for name in ("policy", "start")]
        new, old = (rows[len(prompt) - 1 : -1].log_softmax(1)[range(len(ids)), ids] for rows in logits)
        expected += (0.5 * (new - old)).tolist()
    found = [float(title.split("reward ")[1].split()[0].rstrip(",")) for _, _, title in shown.tokens]
    assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "preferences: expected a .jsonl, .json, .csv or .parquet file"),
        (["--preferences", "x.jsonl"], "reward_model: expected a directory"),
        (["--preferences", "x.jsonl", "--token_rewards", "column"], "tokenizer: expected a directory"),
        (["--preferences", "x.jsonl", "--check_calculations"], "tokenizer: expected a directory"),
        (["--preferences", "x.jsonl", "--reward_policy", "dpo"], "model: expected the model that --reward_policy was"),
        (["--preferences", "x.jsonl", "--reward_policy", "./dpo", "--model", "."], "reward_policy: there is no"),
        (
            ["--preferences", "x.jsonl", "--reward_policy", "dpo", "--model", "lm", "--reward_model", "rm"],
            "expected one source of rewards, got rm and policy dpo",
        ),
        (
            ["--preferences", "x.jsonl", "--reward_model", "rm", "--token_rewards", "column"],
            "token_rewards: expected no other source with `column`, got rm",
        ),
        (["--preferences", "x.jsonl", "--rows", "0"], "rows: expected >= 1, got 0"),
    ],
)
def test_inspect_names_missing_options(argv, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text("")
    from segkernel._arguments import UserError
    from segkernel.training.cli.inspect import main

    with pytest.raises(UserError, match=message):
        main(argv)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("a\x0e\x00b\n\tc\u3000é", "a��b↵\tc\u3000é"),
        ("", "·"),  # its character is completed by a later token
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("\u65e5\u672c", "\u65e5\u672c"),
        ("\u0301s", "\u25cc\u0301s"),  # the accent belongs to the token before it
        ("\u200d", "U+200D"),
        ("\u202e\u2066", "U+202E U+2066"),
        ("\u0645\u0631\u062d\u0628\u0627", "\u0645\u0631\u062d\u0628\u0627"),
    ],
)
def test_token_texts_are_visible(token: str, shown: str) -> None:
    assert visible_text(token) == shown


def test_page_shows_characters_of_several_tokens_and_scripts(tmp_path, recwarn):
    tokens = ["", "", "\N{GRINNING FACE}", "\u65e5"]
    page = Page(render(tmp_path, example(tokens=tokens), sample(tokens=tokens)))
    assert [token[1] for token in page.tokens] == ["·", "·", "\N{GRINNING FACE}", "\u65e5"] * 2
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_right_to_left_responses_run_from_the_right(tmp_path):
    html = render(tmp_path, example(), sample())
    assert html.count('class="row" dir="auto"') == html.count('class="row flow" dir="auto"') == 1
    assert html.count('class="prompt" dir="auto"') == 1


def sample(**changes: object) -> Sample:
    values: dict[str, object] = {
        "prompt": "2+2=, 3+3=",
        "label": "best",
        "tokens": ["4", ";", "7", "\n"],
        "token_rewards": [1.0, 0.0, -0.5, math.nan],
        "score": 0.25,
    }
    return Sample(**{**values, **changes})


def test_sample_is_colored_by_its_rewards_relative_to_the_largest(tmp_path):
    assert [(c["sign"], c["strength"]) for c in sample().columns()] == [
        ("plus", 100),
        ("neutral", 0),
        ("minus", 50),
        ("neutral", 0),
    ]
    html = render(tmp_path, sample())
    page = Page(html)
    assert page.tokens[:3] == [
        ("plus kept", "4", "token 0, reward 1"),
        ("neutral kept", ";", "token 1, reward 0"),
        ("minus kept", "7", "token 2, reward -0.5"),
    ]
    assert "score 0.25" in page.text
    assert "colored by reward" in page.text
    assert re.findall(r"--strength:(\d+)%\"><span class=\"text\">4<", html) == ["100"]


def test_sample_with_advantages_is_colored_by_them(tmp_path):
    shown = sample(advantages=[-2.0, 1.0, 0.0, -0.5], kept=[True, False, True, True])
    assert [(c["sign"], c["strength"]) for c in shown.columns()] == [
        ("minus", 100),
        ("plus", 50),
        ("neutral", 0),
        ("minus", 25),
    ]
    page = Page(render(tmp_path, shown))
    assert page.tokens[1] == ("plus masked", ";", "token 1, reward 0, advantage 1, masked out")
    assert "3 tokens trained on (75 %)" in page.text
    assert "colored by advantage" in page.text


def test_sample_refuses_lists_of_other_lengths():
    with pytest.raises(ValueError, match=r"advantages: expected one value per token \(4\), got 1"):
        sample(advantages=[0.5])


@pytest.mark.parametrize(("count", "rows"), [(0, []), (1, [2]), (2, [2, 3]), (3, [2, 0, 3]), (9, [2, 0, 3, 4])])
def test_extremes_are_the_best_rows_then_the_worst(count, rows):
    found = extremes([0.5, math.nan, 2.0, -1.0, 0.0], count)
    assert [row for _, row in found] == rows
    assert [label for label, _ in found] == ["best"] * ((len(rows) + 1) // 2) + ["worst"] * (len(rows) // 2)


def test_page_says_what_ran_and_escapes_it(tmp_path):
    html = render(tmp_path, facts={"model": "<gpt2>", "device": "cpu"}, command="segkernel train dpo --model '<gpt2>'")
    assert "<dt>model</dt><dd>&lt;gpt2&gt;</dd>" in html
    # Options are broken between words, not at their hyphens.
    assert "<span>--model</span> <span>&#39;&lt;gpt2&gt;&#39;</span></pre>" in html
    assert "segkernel train dpo --model '<gpt2>'" in Page(html).text
    assert "--resume_from_checkpoint last" in Page(html).text


def test_control_characters_are_replaced() -> None:
    example = Example("p", "accepted", ["\x02x", "$"], [1.0, 0.5], [0, 0], [1], [True, True])
    assert token_columns(example)[0]["text"] == "�x"
    assert "\x02" not in reward_trace(example)
