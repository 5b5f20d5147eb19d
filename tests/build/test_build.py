"""The build of the extensions and the inspection of wheels. No GPU needed; tests that compile CUDA need nvcc."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import segkernel
from build_support import cuda, requirements
from build_support.inspect_wheel import inspect_library, inspect_wheel

ROOT = Path(__file__).parents[2]
TORCH = Path(torch.__file__).parent
STABLE_ABI = "0x020a000000000000"


@pytest.fixture(autouse=True)
def no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGKERNEL_CUDA", "SEGKERNEL_CUDA_ARCHS", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)


def fake_toolkit(folder: Path, version: str, codes: str = "sm_80 sm_90 sm_100") -> Path:
    """A toolkit folder whose nvcc is a script that prints its version and architectures."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo "Cuda compilation tools, release {version}, V{version}.1";;\n'
        f'--list-gpu-code) printf "%s\\n" {codes};; esac\n'
    )
    nvcc.chmod(0o755)
    return folder


@pytest.fixture
def toolkit_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cuda.Toolkit:
    monkeypatch.setenv("CUDA_HOME", str(fake_toolkit(tmp_path / "cuda", "13.1")))
    toolkit = cuda.choose_toolkit("13.0")
    assert toolkit is not None
    return toolkit


def test_cuda_home_is_used_if_its_major_version_fits(toolkit_13: cuda.Toolkit) -> None:
    assert toolkit_13.version == "13.1"
    assert cuda.choose_toolkit("13.2") == toolkit_13


def test_cpu_only_build_for_torch_without_cuda_or_of_another_major_version(
    toolkit_13: cuda.Toolkit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cuda.choose_toolkit(None) is None
    assert capsys.readouterr().err == ""
    assert cuda.choose_toolkit("12.8") is None
    message = capsys.readouterr().err
    assert "building the CPU kernels only: torch was built with CUDA 12.8" in message
    assert "nvcc is 13.1" in message
    monkeypatch.setenv("SEGKERNEL_CUDA", "1")
    assert cuda.choose_toolkit(None) == toolkit_13
    monkeypatch.setenv("SEGKERNEL_CUDA", "0")
    assert cuda.choose_toolkit("13.0") is None


def test_choose_toolkit_prefers_torchs_major_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [cuda.Toolkit(tmp_path / version / "bin/nvcc", version) for version in ("12.8", "13.0")]
    monkeypatch.setattr(cuda, "toolkits", lambda: iter(found))
    monkeypatch.setenv("SEGKERNEL_CUDA", "1")
    assert [cuda.choose_toolkit(of_torch) for of_torch in ("13.2", "12.6", None)] == [found[1], found[0], found[0]]


def test_choose_toolkit_without_nvcc_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda.choose_toolkit("13.2") is None
    message = capsys.readouterr().err
    assert "(none found): install the CUDA toolkit 13.2 and set CUDA_HOME to it, or unset that and `pip i" in message
    # All pinned to one version: nvcc's own requirements are unpinned and would bring incompatible ones.
    assert message.count("==13.2.*'") == len(cuda.PACKAGES)
    assert cuda.choose_toolkit("12.8") is None
    assert "(none found): install the CUDA toolkit 12.8 and set CUDA_HOME to it.\n" in capsys.readouterr().err
    monkeypatch.setenv("SEGKERNEL_CUDA", "1")
    with pytest.raises(SystemExit, match=f"there is no nvcc in CUDA_HOME, {tmp_path}: install the CUDA toolkit 13.0"):
        cuda.choose_toolkit("13.0")
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr(cuda, "candidates", lambda: iter(()))
    with pytest.raises(SystemExit, match=r"there is no nvcc on the PATH, .*: install the CUDA toolkit 13.0"):
        cuda.choose_toolkit(None)
    monkeypatch.setenv("SEGKERNEL_CUDA", "yes")
    with pytest.raises(SystemExit, match="SEGKERNEL_CUDA: expected 0, 1 or auto, got 'yes'"):
        cuda.choose_toolkit("13.0")


def test_choose_toolkit_searches_all_candidates_for_torchs_major_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvccs = [fake_toolkit(tmp_path / version, version) / "bin/nvcc" for version in ("13.0", "12.8")]
    monkeypatch.setattr(cuda, "candidates", lambda: iter(nvccs))
    monkeypatch.setenv("SEGKERNEL_CUDA", "1")
    chosen = [cuda.choose_toolkit(torch_cuda) for torch_cuda in ("12.6", "13.2", None)]
    assert [toolkit and toolkit.version for toolkit in chosen] == ["12.8", "13.0", "13.0"]


def test_architectures_sorted_filtered_and_validated(toolkit_13: cuda.Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolkit_13.architectures() == ["8.0", "9.0", "10.0"]  # numeric order, unsupported ones dropped
    monkeypatch.setenv("SEGKERNEL_CUDA_ARCHS", "9.0, 8.0")
    assert toolkit_13.architectures() == ["8.0", "9.0"]
    for wrong, message in (
        ("sm_90", "expected values such as"),
        ("12.0", "expected architectures that .* got 12.0"),
    ):
        monkeypatch.setenv("SEGKERNEL_CUDA_ARCHS", wrong)
        with pytest.raises(SystemExit, match=message):
            toolkit_13.architectures()


def test_unmet_build_requirements_name_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements.check(ROOT / "pyproject.toml")
    assert requirements.listed(ROOT / "pyproject.toml", "requires")[0].startswith("setuptools>=")
    monkeypatch.setattr("importlib.metadata.version", {"torch": "2.9.1+cu128", "pytest": "9.0.0a0+git1"}.__getitem__)
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[build-system]\nrequires = ["pytest>=9", "torch>=2.10", "segkernel_lacks>=1"]\n')
    message = (
        r"unmet build requirements: torch>=2\.10 \(2\.9\.1\+cu128 is installed\), segkernel_lacks>=1 "
        r"\(not installed\)\. "
        r"Run `pip install 'torch>=2\.10' 'segkernel_lacks>=1'`, then"
    )
    with pytest.raises(SystemExit, match=message):
        requirements.check(pyproject)


def test_cpu_build_removes_an_earlier_cuda_build(tmp_path: Path) -> None:
    package = tmp_path / "lib" / "segkernel"
    package.mkdir(parents=True)
    for name in ("_cuda.so", "_cuda.json"):
        (package / name).touch()
    folders = ("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "objects"))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *folders],
        check=True,
        cwd=ROOT,
        env={**os.environ, "SEGKERNEL_CUDA": "0", "CC": "true", "CXX": "true"},  # no compiling here
    )
    assert list(package.iterdir()) == []


def compiled(folder: Path, name: str, source: str, *flags: str) -> Path:
    """A shared library of one C++ source."""
    (folder / "source.cpp").write_text(source)
    library = folder / name
    command = ["g++", "-std=c++20", "-shared", "-fPIC", str(folder / "source.cpp"), "-o", str(library), *flags]
    subprocess.run(command, check=True)
    return library


def test_inspect_library_reports_symbols_outside_the_stable_abi(tmp_path: Path) -> None:
    source = """
    #include <torch/csrc/inductor/aoti_torch/c/shim.h>
    namespace c10 { void warn(); }
    extern "C" int PyErr_Occurred();
    extern "C" int use() { c10::warn(); return aoti_torch_device_type_cpu() + PyErr_Occurred(); }
    """
    torch_flags = (f"-I{TORCH / 'include'}", f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-Wl,--no-as-needed", "-lc10")
    library = inspect_library(compiled(tmp_path, "_cpu.so", source, *torch_flags))
    assert sorted(library.problems) == ["needs libc10.so", "uses PyErr_Occurred", "uses c10::warn()"]
    assert "libtorch_cpu.so" in library.needed
    # The NumPy module may use Python symbols and none of torch.
    library = inspect_library(compiled(tmp_path, "_numpy.cpython-311.so", source, *torch_flags[:1]))
    assert sorted(library.problems) == ["uses aoti_torch_device_type_cpu", "uses c10::warn()"]
    library = inspect_library(compiled(tmp_path, "_cuda.so", 'extern "C" int nothing() { return 0; }'))
    assert len(library.problems) == 2
    assert library.problems[1] == "lacks a NEEDED entry for libtorch_cuda.so, whose symbols it uses"


PROGRAMS = {path.name for folder in os.get_exec_path() for path in Path(folder).glob("*++*")}
COMPILERS = sorted(name for name in PROGRAMS if re.fullmatch(r"g\+\+(-1[1-9])?|clang\+\+(-1[4-9]|-2\d)?", name))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_headers_included_in_two_files_link_with_every_compiler(compiler: str, tmp_path: Path) -> None:
    for name in ("one.cpp", "two.cpp"):
        (tmp_path / name).write_text('#include "simd/isa.h"\n#include "ops/token_logprobs/token_logprobs_row.h"\n')
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", "one.cpp", "two.cpp", "-o", "both.so"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_built_libraries_need_only_torch_and_system_libraries() -> None:
    built = [path for path in Path(segkernel.__file__).parent.glob("_*.so") if path.name != "_cuda.so"]
    assert len(built) == 2
    for path in built:
        assert inspect_library(path).problems == []


def test_inspect_wheel_reports_bundled_libraries(tmp_path: Path) -> None:
    wheel = tmp_path / "segkernel-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("segkernel.libs/libtorch_cpu.so.1", b"")
    (library,) = inspect_wheel(wheel)
    assert library.problems == ["is not part of segkernel"]


def test_build_links_a_runtime_in_lib_or_lib64(toolkit_13: cuda.Toolkit, tmp_path: Path) -> None:
    """nvcc 13.0 from PyPI searches lib64, but its runtime is in lib."""
    runtime = toolkit_13.home / "lib"
    runtime.mkdir()
    (tmp_path / "runtime.c").touch()
    for command in (["cc", "-c", "runtime.c"], ["ar", "rc", runtime / "libcudart_static.a", "runtime.o"]):
        subprocess.run(command, check=True, cwd=tmp_path)
    nvcc = toolkit_13.nvcc.read_text()
    compiles = (
        'case "$1" in -shared) shift; exec g++ -shared $(printf "%s\\n" "$@" | grep "^-L") -lcudart_static -o "$out";;'
    )
    toolkit_13.nvcc.write_text(nvcc.replace('case "$1" in', "for out; do :; done\n" + compiles + "\n"))
    library = tmp_path / "segkernel" / "_cuda.so"
    cuda.build(toolkit_13, ["csrc/ops/hysteresis/hysteresis_cuda.cu"], library, tmp_path / "objects", TORCH, STABLE_ABI)
    assert library.exists()


@pytest.mark.slow
@pytest.mark.skipif(not any(cuda.toolkits()), reason="needs nvcc")
def test_cuda_build_uses_only_the_stable_abi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_CUDA", "1")
    monkeypatch.setenv("SEGKERNEL_CUDA_ARCHS", "9.0")
    monkeypatch.chdir(ROOT)
    toolkit = cuda.choose_toolkit(None)
    assert toolkit is not None
    library = tmp_path / "segkernel" / "_cuda.so"
    torch_with_a_space = tmp_path / "with a space"
    torch_with_a_space.symlink_to(TORCH)
    objects = tmp_path / "objects too"
    cuda.build(toolkit, ["csrc/ops/hysteresis/hysteresis_cuda.cu"], library, objects, torch_with_a_space, STABLE_ABI)
    found = inspect_library(library)
    assert found.problems == []
    assert {"libtorch_cuda.so", "libtorch_cpu.so"} <= set(found.needed)
    assert not any("cudart" in name for name in found.needed)
    described = json.loads((library.parent / "_cuda.json").read_text())
    assert described == {"toolkit": toolkit.version, "architectures": ["9.0"], "ptx": "9.0"}
    exported = subprocess.run(
        ["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True
    ).stdout
    assert " cuda" not in exported  # the static runtime is not exported, so it cannot replace torch's
