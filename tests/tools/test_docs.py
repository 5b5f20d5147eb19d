"""Documentation: examples of docstrings, code blocks of the pages, pictures, and the list of environment variables."""

import doctest
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import segkernel
import segkernel.losses
import segkernel.numpy

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECIPE = DOCS / "adding-an-operator.md"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
# A script whose data are not stored yet has no picture next to it.
PICTURES = sorted(path for path in (DOCS / "pictures").glob("*.py") if path.with_suffix(".svg").is_file())

PUBLIC = {name: getattr(segkernel, name) for name in segkernel.__all__}
PUBLIC = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
PUBLIC["numpy"] = segkernel.numpy  # its functions refer to their namesakes
PUBLIC |= {f"losses.{name}": getattr(segkernel.losses, name) for name in segkernel.losses.__all__}

WITH_EXAMPLES = [
    path.relative_to(ROOT)
    for folder in ("segkernel", "benchmarks", "examples", "docs")
    for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
NEEDS_TRAIN = ("segkernel/training", "examples", "benchmarks/experiments")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_function_has_an_example(name):
    test, *_ = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name)
    assert test.examples, f"segkernel.{name} shows no example"


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_docstring_examples_are_right(path, monkeypatch):
    if str(path).startswith(NEEDS_TRAIN):
        pytest.importorskip("transformers")
    if path.parts[0] == "benchmarks":
        pytest.importorskip("tabulate")
    if path.parts[0] == "docs":
        pytest.importorskip("sphinx")
        pytest.importorskip("matplotlib")
        monkeypatch.syspath_prepend(ROOT / path.parent)
        module = importlib.import_module(path.stem)
    else:
        module = importlib.import_module(".".join(path.with_suffix("").parts))
    tests = doctest.DocTestFinder().find(module)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    output: list[str] = []
    for test in tests:
        runner.run(test, out=output.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(output)


# README's blocks run in test_readme.py, one of them with a tiny model in place of one from the hub.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != RECIPE and page.stem != "README"], ids=lambda page: page.stem
)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    pytest.importorskip("sybil")
    from sybil import Sybil
    from sybil.parsers.markdown import PythonCodeBlockParser

    text = page.read_text(encoding="utf-8")
    if "segkernel.training" in "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sybil = Sybil([PythonCodeBlockParser(doctest_optionflags=doctest.NORMALIZE_WHITESPACE)])
    for example in sybil.parse(page).examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_are_of_a_tested_kind(page):
    kinds = set(re.findall(r"^```(\S+)(?: \w+)?$", page.read_text(encoding="utf-8"), re.MULTILINE))
    tested = {"python", "console", "text", "{toctree}", "{eval-rst}"}  # text: tests/training/test_progress.py
    assert kinds <= tested | ({"{code-block}"} if page == RECIPE else set())


def commands(page: Path) -> list[list[str]]:
    """Commands of the console blocks of a page, without their variables."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [[word for word in words if not re.match(r"SEGKERNEL_\w+=", word)] for words in split if words]


@pytest.mark.parametrize("page", sorted(DOCS.glob("integrations-*.md")), ids=lambda page: page.stem)
def test_page_of_a_framework_has_the_headings_of_all(page):
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    expected = ["Install", "Usage", "Changes", "Unchanged", "Versions", "Limits", "Example"]
    assert [heading for heading in headings if heading in expected] == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_console_commands_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *arguments in commands(page):
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets, arguments
        elif program == "segkernel":
            check_segkernel(arguments)
        elif program == "python":
            files = [word for word in arguments if word.endswith(".py")]
            assert files
            assert all((ROOT / name).is_file() for name in files), files
        else:
            assert program in ("pip", "pre-commit"), program


def check_segkernel(arguments: list[str]) -> None:
    """Parse the options of a command as `segkernel` does, without running it."""
    from segkernel._cli import COMMANDS

    command, *rest = arguments
    assert command in COMMANDS
    if command == "train":
        pytest.importorskip("transformers")
        from segkernel.training.cli.build import parse_options
        from segkernel.training.methods.registry import METHODS

        parse_options(METHODS[rest[0]], [*rest[1:], "--use_cpu"])
    elif command == "inspect":
        pytest.importorskip("transformers")
        source = inspect.getsource(importlib.import_module(COMMANDS["inspect"].module))
        source += inspect.getsource(importlib.import_module("segkernel.training.cli.arguments"))
        for option in (word[2:] for word in rest if word.startswith("--")):
            assert re.search(rf"\b{option}\b", source), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_exist(page):
    text = page.read_text(encoding="utf-8")
    names = re.findall(r"`((?:csrc|segkernel|tests|docs|benchmarks|examples)/[\w./-]+)`", text)
    names += re.findall(r"\]\(([\w./-]+\.\w+)", text)
    if page == RECIPE:
        names = [name for name in names if "running_max" not in name]
    built = ("results/experiments/capitals/report.html",)
    missing = [
        name
        for name in names
        if not (ROOT / name).exists() and not (page.parent / name).exists() and not name.endswith((".so", *built))
    ]
    assert missing == []


def test_environment_variables_are_documented():
    sources = [ROOT / "setup.py", ROOT / "Makefile", ROOT / "pyproject.toml"]
    for folder in ("csrc", "segkernel", "build_support", "tests", "benchmarks", "examples", ".github", ".ci"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".h", ".cpp", ".yml", ".cuh")]
    used = {
        name
        for path in sources
        if path != Path(__file__)
        for name in re.findall(r"\bSEGKERNEL_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    listed = re.findall(r"^\| `(SEGKERNEL_[A-Z_]+)` \|", (DOCS / "debugging.md").read_text(), re.MULTILINE)
    assert set(listed) == used


def test_training_options_are_documented_with_their_defaults():
    """Options in the tables of docs/methods.md: each exists, and a default that is a number is the config's."""
    pytest.importorskip("transformers")
    from dataclasses import fields

    from segkernel.training.methods.registry import METHODS

    defaults: dict[str, set[str]] = {}
    for method in METHODS.values():
        for field in fields(method.load()[0]):
            defaults.setdefault(field.name, set()).add(str(field.default))
    rows = re.findall(r"^\| (`--.*?) \| (.*?) \|", (DOCS / "methods.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for options, default in rows:
        names = re.findall(r"`--(\w+)`", options)
        assert set(names) <= set(defaults), options
        values = default.split(", ")
        for name, value in zip(names, values, strict=len(values) > 1):
            if re.fullmatch(r"[\d.]+", value) and name != "delta":  # its default depends on another option
                assert float(value) in {float(text) for text in defaults[name] if re.fullmatch(r"[\d.e-]+", text)}, name


@pytest.mark.slow
def test_pictures_are_up_to_date(tmp_path):
    """The committed pictures are as drawn now: to the byte with the same Matplotlib, else in their shapes."""
    pytest.importorskip("matplotlib")
    code = f"import sys; sys.path.insert(0, {str(DOCS / 'pictures')!r}); from importlib import import_module; "
    code += f"from pathlib import Path; folder = Path({str(tmp_path)!r}); "
    code += f"[import_module(name).draw(folder) for name in {[script.stem for script in PICTURES]}]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    for script in PICTURES:
        drawn = (tmp_path / f"{script.stem}.svg").read_text()
        committed = script.with_suffix(".svg").read_text()
        version = r"Matplotlib v[\d.]+"
        if re.search(version, drawn)[0] == re.search(version, committed)[0]:
            assert drawn == committed, f"{script.stem}: run `make pictures`"
        else:
            assert drawn.count("<g id=") == committed.count("<g id="), f"{script.stem}: run `make pictures`"


def recipe_files() -> dict[str, str]:
    """Files of docs/adding-an-operator.md, by path."""
    found = re.findall(r"```\{code-block\} \w+\n:caption: (.*?)\n\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    return dict(found)


@pytest.mark.slow
@pytest.mark.compiles
def test_recipe_for_an_operator_works(tmp_path):
    """The operator of docs/adding-an-operator.md compiles (CPU and emulated CUDA) and passes its tests on the CPU."""
    from tests.cuda_emulation import build as emulation

    files = recipe_files()
    for folder in ("core", "cuda", "simd", "torch"):
        (tmp_path / "csrc").mkdir(exist_ok=True)
        (tmp_path / "csrc" / folder).symlink_to(ROOT / "csrc" / folder)
    schema = files.pop("csrc/schemas.cpp, added")
    assert eval("{" + files.pop("tests/ops/test_cuda.py, added") + "}").keys() == {"running_max"}
    files["csrc/schema.cpp"] = (
        f'#include "torch/registration.h"\nSTABLE_TORCH_LIBRARY_FRAGMENT(segkernel, library) {{\n{schema}}}\n'
    )
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    torch_root = Path(torch.__file__).parent
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    flags = ["-std=c++20", "-O1", "-fPIC", f"-I{torch_root / 'include'}", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    csrc = tmp_path / "csrc"
    library = tmp_path / "recipe.so"
    sources = [csrc / "schema.cpp", csrc / "ops/running_max/running_max_cpu.cpp"]
    link = [f"-L{torch_root / 'lib'}", "-ltorch_cpu"]
    subprocess.run(
        [*compiler, *flags, f"-I{csrc}", "-shared", *map(str, sources), "-o", str(library), *link], check=True
    )
    cuda = csrc / "ops/running_max/running_max_cuda.cu"
    subprocess.run([*compiler, *emulation.FLAGS, "-fsyntax-only", "-x", "c++", str(cuda)], check=True)
    code = f"""
import runpy, sys, pytest, torch, segkernel
from segkernel import reference
import segkernel.ops
torch.ops.load_library({str(library)!r})
segkernel.running_max = runpy.run_path({str(tmp_path / "segkernel/ops/running_max.py")!r})["running_max"]
reference.running_max = runpy.run_path({str(tmp_path / "segkernel/reference/running_max.py")!r})["running_max"]
options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
options += ["--rootdir", {str(ROOT)!r}, "-c", {str(ROOT / "pyproject.toml")!r}]
test, module = {str(tmp_path / "tests/ops/test_running_max.py")!r}, {str(tmp_path / "segkernel/ops/running_max.py")!r}
sys.exit(pytest.main([*options, test]) or pytest.main([*options, "--doctest-modules", module]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "SEGKERNEL_LIBRARY"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_site_has_every_page_in_its_contents():
    listed = re.findall(r"^(?:[^<\n]+ <)?([\w-]+)>?$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert {f"{name}.md" for name in listed} >= {page.name for page in DOCS.glob("*.md")} - {"index.md"}
