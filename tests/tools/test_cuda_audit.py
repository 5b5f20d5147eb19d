"""The audit of machine code, on hand-written machine code and on the stored audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cuda_audit.__main__ import PAGE, STORED, main
from benchmarks.cuda_audit.fingerprint import fingerprint
from benchmarks.cuda_audit.kernels import Kernel, compiled
from benchmarks.cuda_audit.occupancy import ARCHITECTURES
from benchmarks.cuda_audit.results import MARKERS, Audit, read, table, write
from benchmarks.cuda_audit.rules import regressions, violations
from benchmarks.cuda_audit.sass import Function
from build_support.cuda import Toolkit

STREAM = "LDG.E.EF.128 R4,desc[UR6][R2.64]"
GOOD = Kernel(
    registers=64,
    stack=0,
    shared_memory=1408,
    threads=256,
    local_accesses=0,
    instructions=65.0,
    special=8.0,
    wide_loads=4,
    is_loop=True,
)
NAME = "token_logprobs_kernel<false, true, bfloat16, float>"


def function(*lines: str) -> Function:
    """Machine code from `@P0 OPCODE operands`; the target of a branch is the index of an instruction."""
    rows = []
    for line in lines:
        predicate, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
        opcode, _, operands = rest.partition(" ")
        if opcode == "BRA":
            operands = hex(16 * int(operands))
        rows.append({"predicate": predicate, "opcode": opcode, "operands": operands})
    return Function.from_json(rows)


def test_iteration_takes_the_shortest_way_around_a_slow_path() -> None:
    found = function(
        "MOV R0,RZ",
        STREAM,  # 1: the loop begins
        STREAM,
        "@P0 BRA 7",
        "MUFU.EX2 R8,R8",  # the slow path
        "FADD R8,R8,R8",
        "FADD R8,R8,R8",
        "FADD R9,R9,R4",  # 7
        "@P1 BRA 1",
        "EXIT",
    ).iteration()
    assert found is not None
    assert [one.name for one in found.instructions] == ["LDG", "LDG", "BRA", "FADD", "BRA"]
    assert found.is_loop
    assert found.wide_loads == 2
    # 5 instructions for 2 loads of 512 bytes per warp.
    assert found.per_512_bytes == 2.5
    assert found.special_per_512_bytes == 0


def test_iteration_prefers_streaming_loads_to_more_loads_of_unaligned_rows() -> None:
    found = function(
        "@P0 BRA 6",  # 0: the loop begins
        "LDG.E.128 R4,[R2]",
        "LDG.E.128 R8,[R2]",
        "LDG.E.128 R12,[R2]",
        "SHF R4,R4,R8",
        "BRA 7",
        STREAM,  # 6
        "@P1 BRA 0",  # 7
        "EXIT",
    ).iteration()
    assert found is not None
    assert [one.opcode for one in found.instructions] == ["BRA", "LDG.E.EF.128", "BRA"]


def test_iteration_prefers_loads_in_a_loop_and_counts_every_load_on_the_way() -> None:
    found = function(
        "LDG.E.128 R4,[R2]",
        "LDG.E.U8 R1,[R2]",  # 1: the loop begins
        "@P0 BRA 4",
        "STL [R1],R4",  # spilled, on a path that is not the shortest
        "LDG.E R5,[R2]",  # 4
        "LDG.E.64 R6,[R2]",
        "@P1 BRA 1",
        "EXIT",
    ).iteration()
    assert found is not None
    assert found.loaded_bytes == 1 + 4 + 8
    assert len(found.instructions) == 5
    assert found.local_accesses == 0


def test_iteration_counts_spilled_registers_on_its_way() -> None:
    found = function("LDL R3,[R1]", STREAM, "STL [R1],R4", "@P1 BRA 0", "EXIT").iteration()
    assert found is not None
    assert found.local_accesses == 2


def test_iteration_counts_special_functions() -> None:
    found = function(
        STREAM, STREAM, "MUFU.EX2 R8,R8", "MUFU.RCP R8,R8", "MUFU.EX2 R9,R9", "@P1 BRA 0", "EXIT"
    ).iteration()
    assert found is not None
    assert found.special_per_512_bytes == 1.5


@pytest.mark.parametrize(("special", "cycles"), [(8.0, 65.0), (24.0, 192.0)])
def test_cycles_are_those_of_the_busier_unit(special: float, cycles: float) -> None:
    """A scheduler issues one instruction per cycle; the special-function units take 8 cycles for one of theirs."""
    assert changed(special=special).cycles == cycles


def test_fingerprint_notices_code_of_included_files_only(tmp_path: Path) -> None:
    source, header, indirect, other = (tmp_path / name for name in ("a.cu", "a.h", "b.h", "c.h"))
    source.write_text('#include "a.h"\n#include <cmath>\nint a;\n')
    header.write_text('#include "b.h"\n')
    for path in (indirect, other):
        path.write_text("int b;\n")

    def found(*command: str) -> str:
        return fingerprint(source, command or ("13.0", "-O3"))

    before = found()
    for unread in ("// int c;\n  int b; /* and\nmore */\n", "int b;\n"):
        indirect.write_text(unread)
        other.write_text(unread + "int c;\n")
        assert found() == before
    indirect.write_text("int c;\n")
    assert found() != before
    indirect.write_text("int b;\n")
    header.write_text('#include "c.h"\n')
    assert found() != before
    header.write_text('#include "b.h"\n')
    assert found() == before
    assert found("13.0", "-O2") != before
    assert found("13.1", "-O3") != before


def test_machine_code_is_compiled_once_per_code_and_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = tmp_path / "a_cuda.cu", []

    def compile_it(*command: str | Path) -> None:
        built.append(next(str(one) for one in command if str(one).startswith("-gencode")))
        Path(command[-1]).write_text(source.read_text())

    monkeypatch.setattr("benchmarks.cuda_audit.kernels.run", compile_it)

    def machine_code(text: str, architecture: str) -> str:
        source.write_text(text)
        return compiled(source, architecture, Toolkit(Path("nvcc"), "13.0"), tmp_path / "build").read_text()

    assert machine_code("int a;", "9.0") == "int a;"
    assert machine_code("int a;  // the first", "9.0") == "int a;"
    assert machine_code("int a;", "8.0") == "int a;"
    assert machine_code("int b;", "9.0") == "int b;"
    assert [one[-5:] for one in built] == ["sm_90", "sm_80", "sm_90"]
    # The machine code of the former source is gone.
    assert len(list((tmp_path / "build").iterdir())) == 2


def test_iteration_without_a_loop_is_the_way_to_the_exit() -> None:
    found = function("MOV R0,RZ", "@P0 EXIT", "LDG.E R4,[R2]", "STG.E [R2],R4", "EXIT", "BRA 5").iteration()
    assert found is not None
    assert not found.is_loop
    assert [one.name for one in found.instructions] == ["MOV", "EXIT", "LDG", "STG", "EXIT"]
    assert found.per_512_bytes == 5 * 4


def test_iteration_of_a_kernel_that_reads_nothing_is_none() -> None:
    assert function("STG.E [R2],RZ", "EXIT").iteration() is None


@pytest.mark.parametrize(
    ("architecture", "registers", "shared_memory", "threads", "expected"),
    [
        ("9.0", 32, 0, 256, 1.0),
        ("9.0", 33, 0, 256, 0.75),  # 40 registers are allocated: 51 warps, so 6 blocks of 8
        ("9.0", 255, 0, 128, 0.125),
        ("9.0", 32, 48 * 1024, 256, 0.5),  # 4 blocks of 49 KiB in 228 KiB
        ("8.0", 32, 48 * 1024, 256, 0.375),  # 3 in 164 KiB
        ("12.0", 32, 0, 256, 1.0),
        ("12.0", 32, 0, 32, 0.5),  # 24 blocks of one warp, of 48
        ("9.0", 64, 8320, 1024, 0.5),
    ],
)
def test_occupancy_literals(
    architecture: str, registers: int, shared_memory: int, threads: int, expected: float
) -> None:
    assert ARCHITECTURES[architecture].occupancy(registers, shared_memory, threads) == expected


def changed(**values: float) -> Kernel:
    return Kernel(**{**vars(GOOD), **values})


@pytest.mark.parametrize(
    ("name", "kernel", "expected"),
    [
        (NAME, changed(stack=8, local_accesses=3), "got 3 accesses per iteration"),
        (NAME, changed(wide_loads=0), "loads of 128 bits"),
        (NAME, changed(instructions=100.2), "at most 100 cycles per 512 bytes, got 100.2"),
        (NAME, changed(special=16.0), "at most 100 cycles per 512 bytes, got 128.0"),
        (NAME.replace("false", "true"), changed(instructions=160.5), "at most 160 cycles"),
        ("token_divergences_kernel<512, false, kl, float, float>", changed(special=16.0), "at most 100 cycles"),
    ],
)
def test_a_kernel_that_breaks_a_rule_is_found(name: str, kernel: Kernel, expected: str) -> None:
    (found,) = violations({(name, "9.0"): kernel})
    assert found.startswith(f"{name}, 9.0: ")
    assert expected in found


def test_good_kernels_break_no_rule() -> None:
    kernels = {
        (NAME, "9.0"): GOOD,
        (NAME.replace("<false", "<true"), "9.0"): changed(instructions=115.0),
        ("gae_kernel<float, float>", "9.0"): changed(instructions=140.0, wide_loads=0),
        ("gradient_kernel<true, true, bfloat16, float>", "9.0"): changed(instructions=194.0),  # it writes as much
    }
    assert list(violations(kernels)) == []


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (changed(registers=65), "occupancy 38%, stored 50% (registers 65, stored 64"),
        (changed(instructions=66.5), "66.5 cycles per 512 bytes, stored 65.0"),
        (changed(wide_loads=2), "2 loads of 128 bits per iteration, stored 4"),
        (changed(stack=16), "a stack of 16 bytes, stored 0"),
    ],
)
def test_a_kernel_worse_than_stored_is_found(kernel: Kernel, expected: str) -> None:
    (found,) = regressions({(NAME, "9.0"): kernel}, {(NAME, "9.0"): GOOD})
    assert expected in found


def test_better_kernels_are_no_regression_and_new_or_lost_ones_are_named() -> None:
    better = changed(registers=48, instructions=60.0)
    assert list(regressions({(NAME, "9.0"): better}, {(NAME, "9.0"): GOOD})) == []
    assert list(regressions({("new", "9.0"): GOOD}, {("old", "9.0"): GOOD})) == [
        "new, 9.0: not in the stored audit",
        "old, 9.0: stored, but not compiled any more",
    ]


class FakeCompiler:
    """Audits of two sources in a folder; the kernel of a source has the registers that its code says, on sm_80 only."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.compiled: list[str] = []
        (folder / "page.md").write_text("\n".join(MARKERS))
        for name, value in (
            ("ROOT", folder),
            ("STORED", folder / "audit.json"),
            ("PAGE", folder / "page.md"),
            ("toolkit", lambda: Toolkit(Path("nvcc"), "13.0")),
            ("sources", lambda: [folder / "a_cuda.cu", folder / "b_cuda.cu"]),
            ("compiled", self.compile),
            ("kernels_of", lambda compiled: [compiled]),
        ):
            monkeypatch.setattr(f"benchmarks.cuda_audit.__main__.{name}", value)
        monkeypatch.chdir(folder)

    def compile(self, source: Path, architecture: str, *_: object) -> tuple[str, Kernel]:
        self.compiled.append(f"{source.name[0]} {architecture}")
        registers = int(source.read_text().split()[0]) if architecture == "8.0" else 64
        return f"{source.name[0]}_kernel", changed(registers=registers)

    def audit(self, a: str, b: str, *arguments: str) -> tuple[int, list[str]]:
        """Exit status, and the sources and architectures that were compiled."""
        (self.folder / "a_cuda.cu").write_text(a)
        (self.folder / "b_cuda.cu").write_text(b)
        self.compiled.clear()
        return main(arguments), sorted(self.compiled)


def test_changed_sources_are_audited_for_every_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    audit = FakeCompiler(tmp_path, monkeypatch).audit
    everywhere = [f"{source} {architecture}" for source in "ab" for architecture in sorted(ARCHITECTURES)]
    hopper = ("--architectures", "9.0")
    assert audit("64", "64", "--write") == (0, everywhere)
    assert audit("64", "64") == (0, everywhere)
    assert audit("64", "64  // the same code", *hopper) == (0, ["a 9.0", "b 9.0"])
    assert "newer" not in capsys.readouterr().out
    # A changed source without a regression passes, with a line about the age of the audit.
    of_b = [name for name in everywhere if name[0] == "b"]
    assert audit("64", "64 int b;", *hopper) == (0, ["a 9.0", *of_b])
    assert f"{tmp_path / 'b_cuda.cu'}: newer than the stored audit" in capsys.readouterr().out
    # A regression on an architecture that is not compiled otherwise is found.
    assert audit("64", "80", *hopper) == (1, ["a 9.0", *of_b])
    assert "b_kernel, 8.0: occupancy 38%, stored 50%" in capsys.readouterr().err
    assert audit("64", "80", *hopper, "--no-others") == (0, ["a 9.0", "b 9.0"])
    # A source that is not stored.
    stored = json.loads((tmp_path / "audit.json").read_text())
    del stored["kernels"]["b_kernel"], stored["sources"][str(tmp_path / "b_cuda.cu")]
    (tmp_path / "audit.json").write_text(json.dumps(stored))
    assert audit("64", "64", *hopper) == (1, ["a 9.0", *of_b])
    assert "b_kernel, 12.0: not in the stored audit" in capsys.readouterr().err


def test_stored_audit_reads_as_written(tmp_path: Path) -> None:
    kernels = {(NAME, "8.0"): GOOD, (NAME, "9.0"): changed(registers=48), ("b_kernel", "9.0"): GOOD}
    audit = Audit(kernels, "13.0", {"a_cuda.cu": "0123", "b_cuda.cu": "4567"})
    write(tmp_path / "audit.json", audit)
    assert read(tmp_path / "audit.json") == audit


def test_stored_audit_covers_every_architecture_and_breaks_no_rule() -> None:
    kernels = read(STORED).kernels
    names = {name for name, _ in kernels}
    assert set(kernels) == {(name, architecture) for name in names for architecture in ARCHITECTURES}
    assert list(violations(kernels)) == []


def test_page_shows_the_stored_audit() -> None:
    assert table(read(STORED).kernels) in PAGE.read_text(encoding="utf-8")
