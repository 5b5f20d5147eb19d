"""`make wheel-check`: test the wheels in dist/ with several torch versions, each in a fresh environment.

With a torch of the same CUDA major version the CUDA kernels must load; with any other torch, segkernel must warn once
and run on the CPU. Loading needs no GPU. An environment takes up to 8 GB of disk during its check.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
TESTS = (
    *("ops/test_scan_ops", "ops/test_hysteresis", "ops/test_segment", "ops/test_token_logprobs", "ops/test_numpy"),
    "build/test_library",
)
TEST_PACKAGES = ("numpy", "scipy", "pytest", "hypothesis", "ml_dtypes")

# Prints as JSON how the wheel behaves with this torch. The last step resolves every symbol of the CUDA library, also
# next to a torch of another CUDA version: the stable ABI must provide them.
PROBE = """
import ctypes, json, pathlib, sys, warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import segkernel
    from segkernel._library import cuda_kernels
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "folder": str(pathlib.Path(segkernel.__file__).parent),
    "toolkit": cuda_kernels.toolkit,
    "problem": cuda_kernels.problem,
    "warnings": [str(warning.message) for warning in caught if "segkernel" in str(warning.message)],
    "states": segkernel.hysteresis(torch.tensor([[0.25, 2.0, -1.0]]), low=0.0, high=1.0).tolist(),
}))
sys.stdout.flush()
library = pathlib.Path(segkernel.__file__).with_name("_cuda.so")
if library.exists() and torch.version.cuda is not None:
    ctypes.CDLL(str(library))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", required=True, help='torch versions to test with, such as "2.10.0 2.13.0"')
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = sorted(arguments.wheels.glob(f"segkernel-*-{tag}-*.whl"))
    if not wheels:
        sys.exit(f"segkernel: no wheel for {tag} in {arguments.wheels}: `make wheels` builds them")
    proven: list[str] = []
    for version in arguments.torch.split():
        outcomes = check_with(version, wheels)
        print(*outcomes, sep="\n", flush=True)
        proven += outcomes
    situations = ("loaded", "falls back: another major version", "falls back: torch without CUDA")
    if missing := [situation for situation in situations if not any(situation in line for line in proven)]:
        print("not covered by these torch versions and wheels:", "; ".join(missing))
    return 0


def check_with(torch_version: str, wheels: list[Path]) -> list[str]:
    """Check every wheel in one fresh environment with this torch; returns one line of results per wheel."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "environment", with_pip=True)
        python = folder / "environment/bin/python"
        pip = (python, "-m", "pip", "install", "-q", "--no-cache-dir")
        run(*pip, f"torch=={torch_version}", *TEST_PACKAGES, cwd=folder)
        shutil.copytree(ROOT / "tests", folder / "tests")
        shutil.copy(ROOT / "pyproject.toml", folder)
        proven = []
        for wheel in wheels:
            run(*pip, "--no-deps", "--force-reinstall", wheel, cwd=folder)
            printed = run(python, "-c", PROBE, cwd=folder).splitlines()
            outcome = judge(json.loads(next(line for line in printed if line.startswith("{"))))
            tests = [f"tests/{name}.py" for name in TESTS]
            summary = run(python, "-m", "pytest", "-q", "-m", "not compiles", *tests, cwd=folder).splitlines()[-1]
            proven.append(f"{wheel.name} with {outcome}; {summary}")
        return proven


def judge(seen: dict[str, object]) -> str:
    """Describe the result of PROBE; exits if it is not the expected one."""
    toolkit, torch_cuda, warnings = str(seen["toolkit"]), seen["cuda"], seen["warnings"]
    installed = f"torch {seen['torch']} (CUDA {torch_cuda})"
    assert isinstance(warnings, list)
    expect("site-packages" in str(seen["folder"]), "the wheel is what was imported", seen)
    expect(seen["states"] == [[0, 1, -1]], "hysteresis works on the CPU", seen)
    if not toolkit:
        expect(seen["problem"] is not None, "a CPU wheel reports that it has no CUDA kernels", seen)
        return f"{installed}: works on the CPU"
    if torch_cuda is not None and str(torch_cuda).split(".")[0] == toolkit.split(".")[0]:
        expect(seen["problem"] is None and not warnings, "the CUDA kernels load", seen)
        return f"{installed}: CUDA kernels loaded"
    expect(len(warnings) == 1 and f"built with CUDA {toolkit}" in warnings[0], "one warning", seen)
    why = "torch without CUDA" if torch_cuda is None else "another major version (every symbol resolves)"
    return f"{installed}: falls back: {why}, with one warning"


def expect(condition: bool, what: str, seen: object) -> None:
    if not condition:
        sys.exit(f"segkernel: wheel-check: expected that {what}; saw {seen}")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"segkernel: failed: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
