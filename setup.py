"""Build the torch operators for the CPU (`_cpu.so`) and CUDA (`_cuda.so`), and the NumPy module (`_numpy`).

The operators use torch's stable ABI and no Python headers, so one file serves every Python and torch >= 2.10. The NumPy
module uses pybind11 and no torch.

Environment variables: SEGKERNEL_DEBUG_BUILD=1 builds the CPU operators with assertions, AddressSanitizer and UBSan. See
build_support/cuda.py for those of the CUDA build. The compile commands are written to build/compile_commands.json, for
clangd.
"""

import json
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

# Compiler flags by file name suffix. The operators choose the instruction set at run time.
AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2"]
AVX512 = [
    *AVX2,
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    # GCC warns of its own header's deliberately undefined vectors.
    *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),
]
FLAGS_BY_SUFFIX = {
    "_avx2.cpp": AVX2,
    "_avx512.cpp": AVX512,
}
if X86:  # five times faster to compile than with -O3; `segment` is half as fast on processors without AVX2
    FLAGS_BY_SUFFIX["segment_baseline.cpp"] = ["-O2"]


def sources(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path("csrc").glob(pattern))


CPU_SOURCES = ["csrc/schemas.cpp", *sources("torch/*.cpp"), *sources("ops/*/*.cpp")]
CUDA_SOURCES = sources("ops/*/*_cuda.cu")
# The NumPy extension has its own copy of the vectorized kernels, so that importing it does not import torch.
NUMPY_SOURCES = [
    "csrc/numpy_module.cpp",
    *(source for op in ("hysteresis", "segment", "select_tokens") for source in sources(f"ops/{op}/{op}_[ab]*.cpp")),
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


def for_this_architecture(paths: list[str]) -> list[str]:
    return [source for source in paths if X86 or not source.endswith(tuple(FLAGS_BY_SUFFIX))]


# Building needs only torch's headers and libtorch_cpu.so, so torch is located but not imported.
requirements.check(Path("pyproject.toml"))
TORCH_ROOT = requirements.package_folder("torch")
TOOLKIT = cuda.choose_toolkit(runpy.run_path(str(TORCH_ROOT / "version.py"))["cuda"])


def operators() -> Extension:
    return Extension(
        "segkernel._cpu",
        sources=for_this_architecture(CPU_SOURCES),
        include_dirs=[str(TORCH_ROOT / "include")],
        define_macros=[("TORCH_TARGET_VERSION", TORCH_TARGET_2_10)],
        library_dirs=[str(TORCH_ROOT / "lib")],
        libraries=["torch_cpu"],
        language="c++",
    )


def numpy_module() -> Extension:
    import pybind11

    return Extension(
        "segkernel._numpy",
        sources=for_this_architecture(NUMPY_SOURCES),
        include_dirs=[pybind11.get_include()],
        language="c++",
    )


def flags_of_instruction_set(source: str) -> list[str]:
    return next((flags for suffix, flags in FLAGS_BY_SUFFIX.items() if source.endswith(suffix)), [])


def write_compile_commands(extensions: list[Extension]) -> None:
    """Write build/compile_commands.json, by which clangd finds the flags of each C++ source."""
    commands = [
        {
            "directory": str(Path.cwd()),
            "file": source,
            "arguments": [
                "c++",
                *(f"-D{name}={value}" for name, value in extension.define_macros),
                *(f"-I{folder}" for folder in extension.include_dirs),
                *common_flags(),
                *flags_of_instruction_set(source),
                *("-c", source),
            ],
        }
        for extension in extensions
        for source in extension.sources
        if source.endswith(".cpp")
    ]
    Path("build").mkdir(exist_ok=True)
    Path("build/compile_commands.json").write_text(json.dumps(commands, indent=1) + "\n", encoding="utf-8")


class BuildExtensions(build_ext):
    """Compile sources in parallel, each with the flags of its instruction set."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith(("_cpu", "_cuda")):  # independent of the Python version: no ABI tag
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def run(self) -> None:
        if TOOLKIT is None:  # remove the results of an earlier CUDA build
            for folder in [self.build_lib, *(["."] if self.inplace else [])]:
                for name in ("_cuda.so", cuda.DESCRIPTION):
                    Path(folder, "segkernel", name).unlink(missing_ok=True)
        super().run()

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = True
        self.compilers = ThreadPoolExecutor(os.cpu_count())  # shared by the extensions

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_cxx[0]
        if shutil.which(compiler) is None:
            sys.exit(
                f"segkernel: no C++ compiler: `{compiler}` not found. Install g++ >= 11 or clang >= 14 "
                "(Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf install gcc-c++`; conda: `conda install "
                "cxx-compiler`), or set CXX."
            )
        super().build_extensions()
        write_compile_commands(self.extensions)

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
            flags = common_flags() + flags_of_instruction_set(source)
            return self.compiler.compile(
                [source],
                output_dir=temporary,
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                extra_postargs=flags,
                depends=[str(header) for header in Path("csrc").rglob("*.*h")],
            )

        objects = [name for names in self.compilers.map(compile_one, ext.sources) for name in names]
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            target,
            libraries=ext.libraries,
            library_dirs=ext.library_dirs,
            extra_postargs=["-fsanitize=address,undefined"] if DEBUG else ["-Wl,-s"],
            target_lang="c++",
        )


class CudaLocalVersion(egg_info):
    """Append a local version label to CUDA builds: 0.2.0+cu130."""

    def finalize_options(self) -> None:
        self.tag_build = "" if TOOLKIT is None else "+cu" + TOOLKIT.version.replace(".", "")
        super().finalize_options()


extensions = [numpy_module(), operators()]  # the one with the largest source first
if TOOLKIT is not None:
    extensions.append(Extension("segkernel._cuda", sources=CUDA_SOURCES))
setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtensions, "egg_info": CudaLocalVersion})
