"""Builds the operators on torch's stable ABI (no Python inside), for the CPU and, where it can, for CUDA; and the NumPy
front (no torch inside).

Switches: SEGKERNEL_DEBUG_BUILD=1 builds the CPU's with assertions, AddressSanitizer and UBSan. For CUDA see
build_support/cuda.py.
"""

import os
import platform
import runpy
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info

sys.path.insert(0, str(Path(__file__).parent))  # pip does not run this file from its folder
from build_support import cuda, requirements

DEBUG = os.environ.get("SEGKERNEL_DEBUG_BUILD", "0") == "1"
TORCH_TARGET_2_10 = "0x020a000000000000"
X86 = platform.machine() in ("x86_64", "AMD64")

# The instruction sets that a file may use follow from its name; the operator chooses between them at run time.
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [
    *AVX2,
    *("-mbmi", "-mbmi2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    # GCC warns of its own header's deliberately undefined vectors.
    *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),
]
FLAGS_BY_SUFFIX = {
    "_avx2.cpp": AVX2,
    "_avx512.cpp": AVX512,
    # GCC would compute on pairs of 64-bit masks in vectors: moving them there costs more than that saves.
    "_avx512vbmi2.cpp": [*AVX512, "-mavx512vbmi", "-mavx512vbmi2", "-mavx512vpopcntdq", "-fno-tree-slp-vectorize"],
}


def sources(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path("csrc").glob(pattern))


CPU_SOURCES = ["csrc/schemas.cpp", *sources("torch/*.cpp"), *sources("ops/*/*.cpp")]
CUDA_SOURCES = sources("ops/*/*_cuda.cu")
# The NumPy extension has its own copy of the vectorized kernels, so that importing it does not import torch.
NUMPY_SOURCES = [
    "csrc/numpy_module.cpp",
    *(source for op in ("hysteresis", "segment") for source in sources(f"ops/{op}/{op}_avx*.cpp")),
]


def common_flags() -> list[str]:
    flags = [
        "-std=c++20",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fno-math-errno",
    ]
    if DEBUG:
        return [*flags, "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"]
    return [*flags, "-O3"]


def for_this_machine(paths: list[str]) -> list[str]:
    return [source for source in paths if X86 or not source.endswith(tuple(FLAGS_BY_SUFFIX))]


# torch's headers and one of its libraries are all that building takes: it is not imported, so its own may be missing.
requirements.check(Path("pyproject.toml"))
TORCH_ROOT = requirements.folder_of("torch")
TOOLKIT = cuda.choose_toolkit(runpy.run_path(str(TORCH_ROOT / "version.py"))["cuda"])


def operators() -> Extension:
    return Extension(
        "segkernel._cpu",
        sources=for_this_machine(CPU_SOURCES),
        include_dirs=[str(TORCH_ROOT / "include")],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_2_10)],
        library_dirs=[str(TORCH_ROOT / "lib")],
        libraries=["torch_cpu"],
        language="c++",
    )


def numpy_front() -> Extension:
    import pybind11

    return Extension(
        "segkernel._numpy",
        sources=for_this_machine(NUMPY_SOURCES),
        include_dirs=[pybind11.get_include()],
        language="c++",
    )


class BuildExtensions(build_ext):
    """Compiles each source with the flags of its instruction set, sources in parallel."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith(("_cpu", "_cuda")):  # serves every Python, so it carries no Python tag
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def run(self) -> None:
        if TOOLKIT is None:  # what an earlier build with CUDA left is no part of this one
            for folder in [self.build_lib, *(["."] if self.inplace else [])]:
                for name in ("_cuda.so", cuda.DESCRIPTION):
                    Path(folder, "segkernel", name).unlink(missing_ok=True)
        super().run()

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_cxx[0]
        if shutil.which(compiler) is None:
            sys.exit(
                f"segkernel: no C++ compiler: `{compiler}` not found. Install g++ >= 11 or clang >= 14 "
                "(Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`; conda: `conda install "
                "cxx-compiler`), or set CXX."
            )
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        if TOOLKIT is not None:
            self.copy_file(str(Path(self.build_lib, "segkernel", cuda.DESCRIPTION)), "segkernel")

    def build_extension(self, ext: Extension) -> None:
        target = self.get_ext_fullpath(ext.name)
        temporary = f"{self.build_temp}/{ext.name}"
        if TOOLKIT is not None and ext.name == "segkernel._cuda":
            cuda.build(TOOLKIT, ext.sources, Path(target), Path(temporary), TORCH_ROOT, TORCH_TARGET_2_10)
            return

        def compile_one(source: str) -> list[str]:
            flags = next((flags for end, flags in FLAGS_BY_SUFFIX.items() if source.endswith(end)), [])
            return self.compiler.compile(
                [source],
                output_dir=temporary,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=common_flags() + flags,
                depends=[str(header) for header in Path("csrc").rglob("*.*h")],
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [name for names in pool.map(compile_one, ext.sources) for name in names]
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            target,
            libraries=ext.libraries,
            library_dirs=ext.library_dirs,
            extra_postargs=["-fsanitize=address,undefined"] if DEBUG else ["-Wl,-s"],
            target_lang="c++",
        )


class NameOfTheBuild(egg_info):
    """The version of a build with CUDA says so: 0.1.0+cu130."""

    def finalize_options(self) -> None:
        self.tag_build = "" if TOOLKIT is None else "+cu" + TOOLKIT.version.replace(".", "")
        super().finalize_options()


extensions = [operators(), numpy_front()]
if TOOLKIT is not None:
    extensions.append(Extension("segkernel._cuda", sources=CUDA_SOURCES))
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions, "egg_info": NameOfTheBuild})
