"""Import rules of the package. `make lint` checks the contracts in pyproject.toml; here the imports are run."""

from __future__ import annotations

import subprocess
import sys

TRAIN_EXTRA = ("transformers", "accelerate", "tokenizers", "datasets", "jinja2", "matplotlib", "tqdm", "rich")

# Imports every module of segkernel outside segkernel.training, except the operators' libraries, which Python cannot
# import. A None in sys.modules makes an import of that name fail.
PROGRAM = """
import importlib, pkgutil, sys

blocked = sys.argv[1:]
sys.modules.update(dict.fromkeys(blocked))
import segkernel

others = ("training", "_cpu", "_cuda", "__main__", "integrations.verl.plugin")  # the last one acts on import
found = []
for module in pkgutil.walk_packages(segkernel.__path__, "segkernel.", onerror=lambda name: None):
    if not module.name.startswith(tuple(f"segkernel.{name}" for name in others)):
        importlib.import_module(module.name)
        found.append(module.name)
for name in segkernel.__all__:
    getattr(segkernel, name)
assert all(sys.modules[name] is None for name in blocked)
print(*found)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, check=False)


def test_kernel_package_imports_without_the_train_extra() -> None:
    done = run(PROGRAM, *TRAIN_EXTRA)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert {"segkernel.ops.segment", "segkernel.numpy", "segkernel.losses.dpo", "segkernel._cli"} <= set(modules)


def test_training_without_transformers_names_the_train_extra() -> None:
    done = run("import sys; sys.modules['transformers'] = None; import segkernel.training")
    assert "ImportError: segkernel.training needs transformers" in done.stderr
    assert done.stderr.rstrip().endswith("pip install 'segkernel[train]'")


def test_debug_is_the_context_manager_after_an_import_of_its_module() -> None:
    done = run("import segkernel._debug, segkernel\nwith segkernel.debug(): pass")
    assert done.returncode == 0, done.stderr
