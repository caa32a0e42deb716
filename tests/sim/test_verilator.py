"""The native simulator: its build and cache, the raw machine, and the back end's own rules.

That its values and cycles equal those of the models is in test_equivalence.py.
"""

import dataclasses
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from random_layers import ARCHS, random_case
from sordino.runtime.accelerator import Accelerator
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import preset
from sordino_hw.spec.asm import Assembler, assemble
from sordino_hw.spec.errors import ArchError, BinaryError, InputError, ToolError, TrapError
from sordino_hw.spec.isa import PERF_FIELDS, Region, Trap, region_bits, region_depth, row_pieces
from sordino_hw.spec.program import Layer, Op, Program, Segment, Tensor
from sordino_sim.golden.model import Golden
from sordino_sim.rtl import build, images
from sordino_sim.rtl.backend import Verilator
from sordino_sim.rtl.machine import Rtl, Run
from sordino_sim.rtl.wave_layout import layout_path

ARCH = next(a for a in ARCHS if a.cores == 4 and a.lanes == 8)
SMALLEST = preset("icebreaker")
"""For what needs a build of its own: it takes a third of the time."""
READABLE = {Region.ACT: "lanes", Region.STATE: "ppu"}


@pytest.fixture(scope="module")
def rtl():
    with Rtl(ARCH, quiet=True) as machine:
        yield machine


def find_case(accept):
    """The first random network of `ARCH` whose program `accept` takes."""
    for seed in range(1000):
        case = random_case(seed, ARCH)
        program = compile_graph(case.graph)
        if accept(program):
            return case, program
    raise AssertionError("no such network among the random ones")


def copy_program(stream: np.ndarray, limit: int = 10_000) -> Program:
    """A program on `ARCH` that runs `stream` and copies nothing by itself: input x at word 0, output y at word 8."""
    empty = {name: np.zeros((ARCH.cores, 0, ARCH.ppu), np.int32) for name in ("bias", "mantissa", "shift", "threshold")}
    ops = [Op(0, (1,))] * sum(int(word) >> 28 in (2, 3) for word in stream)
    segment = Segment(
        imem=stream,
        weight=np.zeros((ARCH.cores, 0, ARCH.lanes), np.int8),
        mask=np.zeros((ARCH.cores, 0, ARCH.lanes), bool),
        table=np.zeros(0, np.int16),
        ops=ops,
        cycle_limit=limit,
        **empty,
    )
    lanes = tuple(range(ARCH.lanes))
    tensors = {
        n: Tensor(n, (ARCH.lanes, 1, 4), 1.0, True, base, 4, 1, lanes, layer) for n, base, layer in (("x", 0, -1), ("y", 8, 0))
    }
    return Program(ARCH, [segment], tensors, [Layer("copy", "maxpool", "", ("x",), "y", 0)], ["x"], ["y"])


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS, ids=lambda a: a.name)
def test_rows_as_pieces(arch, rng):
    """Every field lies where `isa` says: checked bit by bit against integers."""
    lanes, ppu, e = arch.lanes, arch.ppu, arch.event_bits

    def integers(pieces):
        return [sum(int(p) << 32 * i for i, p in enumerate(row)) for row in pieces]

    def joined(values, bits):
        return sum((int(v) & (1 << bits) - 1) << bits * i for i, v in enumerate(values))

    act = rng.integers(-(1 << (e - 1)), 1 << (e - 1), (5, lanes)).astype(np.int16)
    state = rng.integers(-(1 << 31), 1 << 31, (5, ppu)).astype(np.int32)
    weight = rng.integers(-128, 128, (5, lanes)).astype(np.int8)
    mask = rng.random((5, lanes)) < 0.5
    table = rng.integers(-(1 << (e - 1)), 1 << (e - 1), 5).astype(np.int16)
    for region, rows, bits in (
        (Region.ACT, act, e),
        (Region.STATE, state, 32),
        (Region.WEIGHT, weight, 8),
        (Region.MASK, mask, 1),
        (Region.TABLE, table[:, None], e),
    ):
        pieces = images.encode(arch, region, rows[:, 0] if region is Region.TABLE else rows)
        assert pieces.dtype == np.uint32 and pieces.shape == (5, row_pieces(region_bits(arch, region)))
        assert integers(pieces) == [joined(row, bits) for row in rows]
        if region in READABLE:
            back = images.decode(arch, region, pieces)
            assert back.dtype == rows.dtype and np.array_equal(back, rows)


# -- the raw machine -----------------------------------------------------------------------------------------------


def test_memories(rtl, rng):
    low, high = -(1 << (ARCH.event_bits - 1)), (1 << (ARCH.event_bits - 1)) - 1
    act = rng.integers(low, high + 1, (ARCH.act_depth, ARCH.lanes)).astype(np.int16)
    state = rng.integers(-(1 << 31), 1 << 31, (ARCH.cores, ARCH.state_depth, ARCH.ppu)).astype(np.int32)
    rtl.write(Region.ACT, act)
    for core, rows in enumerate(state):
        rtl.write(Region.STATE, rows, core=core)
    assert np.array_equal(rtl.read(Region.ACT, ARCH.act_depth), act)
    for core, rows in enumerate(state):
        assert np.array_equal(rtl.read(Region.STATE, ARCH.state_depth, core), rows)
    some = rng.permutation(ARCH.act_depth)[:20]
    rtl.write(Region.ACT, act[:20], some)
    assert np.array_equal(rtl.read(Region.ACT, some), act[:20])
    assert rtl.csr("HASH") == ARCH.hash


@pytest.mark.parametrize("region", [r for r in Region if r not in (Region.CSR, Region.PERF)])
def test_rows_beyond_a_memory(rtl, region):
    row = np.zeros((1, 64), np.int16)
    with pytest.raises(ArchError, match=f"^1 rows of {region.name} beyond its {region_depth(ARCH, region)}"):
        rtl.write(region, row, region_depth(ARCH, region))


def test_a_core_that_is_not_there(rtl):
    with pytest.raises(ArchError, match=rf"^core {ARCH.cores} is not one of the {ARCH.cores} of {ARCH.name}$"):
        rtl.read(Region.STATE, 1, ARCH.cores)


def test_ends_of_a_run(rtl):
    """HALT, a trap and the cycle limit, with the instruction that did it."""
    rtl.write(Region.IMEM, assemble("SET OH, 3\nHALT"))
    first = rtl.run(100)
    assert first == Run(Trap.NONE, 1, first.cycles, 0) and first.cycles < 20
    assert rtl.run(100) == first
    rtl.write(Region.IMEM, assemble("SET OH, 3\nWAIT"))
    assert rtl.run(100) == dataclasses.replace(first, trap=Trap.WAIT)
    assert rtl.run(3).trap is Trap.CYCLES


def test_interrupted_run(rtl):
    """An exception during a run stops the machine; it is good for the next run."""
    a = Assembler()
    a.conv(OH=4095, OW=4095, KH=1, KX=1, SPAN=1, WORDS=1, H=1, W=1, REPY=1, REPX=1, DRAIN=1, SY=1, SX=1, O_OX=0,
           SPLIT=1, SLICES=1, RUN=1)  # fmt: skip
    a.halt()
    rtl.write(Region.IMEM, a.imem)

    def interrupt(cycles):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rtl.run((1 << 32) - 1, interrupt)
    assert rtl.csr("STATUS") & 1 == 0
    rtl.write(Region.IMEM, assemble("HALT"))
    assert rtl.run(100).trap is Trap.NONE


def test_machines_are_independent(rtl):
    """Two machines in one process share nothing; a closed one says so."""
    rtl.write(Region.STATE, np.full((1, ARCH.ppu), 7))
    with Rtl(ARCH, quiet=True) as other:
        assert not other.read(Region.STATE, 1).any()
        other.write(Region.STATE, np.full((1, ARCH.ppu), 9))
    assert (rtl.read(Region.STATE, 1) == 7).all()
    with pytest.raises(ToolError, match=r"^This simulated machine was closed\.$"):
        other.csr("ID")


# -- programs ------------------------------------------------------------------------------------------------------


def test_segments_reused_memory_and_any_tensor():
    """Segments are loaded in turn, image after image; tensors whose memory is reused are read all the same."""
    case, program = find_case(lambda p: len(p.segments) > 1 and not all(t.kept for t in p.tensors.values()))
    keep = [name for name, t in program.tensors.items() if t.kept or t.layer >= 0]
    inputs = {name: np.concatenate([x, x[::-1]]) for name, x in case.inputs.items()}
    want = Golden(program).run(inputs, keep)
    done = []
    with Verilator(program, quiet=True) as machine:
        for _ in range(2):
            got = machine.run(inputs, keep, lambda i, n: done.append((i, n)))
            for name in keep:
                assert got.tensors[name].dtype == np.int16 and np.array_equal(got.tensors[name], want.tensors[name]), name
            assert set(got.outputs) == set(program.outputs)
            assert np.array_equal(got.events, want.events) and np.array_equal(got.nonzero_macs, want.nonzero_macs)
    batch = len(next(iter(inputs.values())))
    assert done == [(i + 1, batch) for i in range(batch)] * 2
    assert got.records is not None
    assert got.records.shape == (batch, len(program.ops) + len(program.segments), ARCH.cores, len(PERF_FIELDS))


def test_an_accelerator_runs_the_golden_model_once_a_call(monkeypatch):
    """The golden model counts what the machine does not; the statistics need no second run."""
    case, program = find_case(lambda p: not all(t.kept for t in p.tensors.values()))
    inputs = [case.inputs[name] for name in program.inputs]
    golden = Accelerator(program)
    golden.integers(*inputs)
    calls = []
    run = Golden.run
    monkeypatch.setattr(Golden, "run", lambda *a, **k: calls.append(1) or run(*a, **k))
    with Accelerator(program, "verilator") as rtl:
        rtl.integers(*inputs)
        assert len(calls) == 1
        assert rtl.stats.nonzero == golden.stats.nonzero and set(rtl.stats.nonzero) == set(program.tensors)


def test_rows_that_no_image_holds(monkeypatch):
    """Why programs are verified: weights of a later segment show through from the second image on, and no model knows of them."""
    a = Assembler()
    a.conv(
        **dict(OH=1, OW=4, KH=1, KX=1, SPAN=1, WORDS=1, H=1, W=4, SX=1, SY=1, REPY=1, REPX=1, A_OX=1, W_WORD=ARCH.lanes),
        **dict(O_BASE=8, O_OX=1, DRAIN=ARCH.chunks, LO=-128, HI=127, SPLIT=1, SLICES=1, RUN=1),
    )
    a.halt()
    program = copy_program(a.imem)
    first = program.segments[0]
    shape = (ARCH.cores, ARCH.chunks, ARCH.ppu)
    first.bias = first.threshold = np.zeros(shape, np.int32)
    first.mantissa, first.shift = (np.full(shape, v, np.int32) for v in (1 << ARCH.mantissa_bits - 1, ARCH.mantissa_bits - 1))
    first.mask = np.ones((ARCH.cores, 1, ARCH.lanes), bool)
    weight = np.full((ARCH.cores, ARCH.lanes, ARCH.lanes), 127, np.int8)
    program.segments.append(dataclasses.replace(first, imem=assemble("HALT"), ops=[], weight=weight))
    with pytest.raises(
        BinaryError, match=r"^program: segment 0, operation 0, instruction \d+: it uses weight row 0; the segment's "
    ):
        Verilator(program)
    monkeypatch.setattr(Program, "check", lambda self: None)
    x = np.ones((3, ARCH.lanes, 1, 4), np.int16)
    with Verilator(program, quiet=True, jobs=1) as machine:
        assert machine.run({"x": x}).outputs["y"][:, 0, 0, 0].tolist() == [0, 127, 127]
    assert Golden(program).run({"x": x}).outputs["y"][:, 0, 0, 0].tolist() == [0, 0, 0]


def test_trap_names_the_instruction(rng):
    """A program that the models cannot refuse beforehand: its cycle limit is too small."""
    _, program = find_case(lambda p: len(p.segments) == 1)
    program.segments[0].cycle_limit = 20
    x = {name: np.zeros((1, *program.tensors[name].shape), np.int16) for name in program.inputs}
    with (
        Verilator(program, quiet=True) as machine,
        pytest.raises(
            TrapError, match=r"^The machine stopped with trap CYCLES at segment 0, instruction \d+ \(SET .*\): "
        ) as caught,
    ):
        machine.run(x)
    assert caught.value.cause is Trap.CYCLES and caught.value.pc is not None


def test_refusals():
    case, program = find_case(lambda p: not p.tensors[p.inputs[0]].kept)
    with Verilator(program, quiet=True) as machine:
        with pytest.raises(InputError, match=r"^keep: the memory of .* is reused by the program; it cannot be read back\.$"):
            machine.run(case.inputs, [program.inputs[0]])
        with pytest.raises(InputError, match=r"^input 'nonsense' is not known"):
            machine.run({**case.inputs, "nonsense": np.zeros(1)})
    many = copy_program(assemble("VEC MAX\n" * ARCH.perf_depth + "HALT"))
    with pytest.raises(BinaryError, match=rf"^segment 0 has {ARCH.perf_depth} operations; the performance log of"):
        Verilator(many)


def test_threads_share_a_back_end():
    """Machines hold one image at a time; batches of several threads wait for each other."""
    case, program = find_case(lambda program: len(program.segments) > 1)
    one = {name: x[:1] for name, x in case.inputs.items()}
    expected = Golden(program).run(one)
    with Verilator(program, quiet=True, jobs=1) as machine, ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda _: machine.run(one), range(24)):
            for name, value in expected.outputs.items():
                assert np.array_equal(result.outputs[name], value)


# -- building ------------------------------------------------------------------------------------------------------


def test_the_key_covers_the_gateware():
    """Whatever the Verilog is made from is a source that the cache's key covers."""
    code = (
        "import sys, sordino_hw.gateware.generate, sordino_hw.gateware.top\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'sordino_hw'), sep='\\n')"
    )
    used = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {Path(f).name for f in used} > {"core.py", "isa.py"}
    assert {Path(f).resolve() for f in used} <= {f.resolve() for f in build.gateware_sources()}


def test_keys_differ():
    keys = {build.build_key(a, v) for a in ARCHS for v in ("", "vcd")}
    assert len(keys) == 2 * len(ARCHS)
    assert build.build_key(ARCH) == build.build_key(dataclasses.replace(ARCH, name="another"))


def test_missing_tools(monkeypatch, tmp_path):
    """Without a compiler there is a remedy and nothing half-written; a simulator that is in the cache needs none."""
    built = build.library(ARCH, quiet=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.library(ARCH) == built
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        ToolError, match=r"^The RTL simulator cannot be built without g\+\+, make, perl\. To get it: g\+\+: install"
    ):
        build.library(ARCH)
    assert not (tmp_path / "cache").exists()


def test_failed_build(monkeypatch, tmp_path, capsys):
    """A compiler that fails: the end of the log, where the log is, and no library."""
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ToolError, match=r"^Building the RTL simulator failed: make .* The log is .*\.log; it ends: .*Error 1"):
        build.library(SMALLEST)
    assert capsys.readouterr().err == f"Building the RTL simulator of {SMALLEST.name} (once for each architecture) ...\n"
    assert not list(tmp_path.rglob("*.so"))


def test_unwritable_cache(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SORDINO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match=r"^The folder .* cannot be written .* Name another in SORDINO_CACHE\.$"):
        build.library(ARCH, quiet=True)


@pytest.mark.slow
def test_two_processes_build_once(tmp_path):
    env = {**os.environ, "SORDINO_CACHE": str(tmp_path)}
    code = (
        "from sordino_hw.spec.arch import preset; from sordino_sim.rtl.build import library\n"
        f"print(library(preset({SMALLEST.name!r}), quiet=True))"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {job.communicate()[0].strip() for job in jobs}
    assert len(paths) == 1 and Path(paths.pop()).exists()
    assert len(list((tmp_path / "rtl").glob("*.so"))) == 1


def test_waves(tmp_path):
    """The file holds the signals of the design and the time of a run."""
    path = tmp_path / "run.vcd"
    with Rtl(SMALLEST, waves=path, quiet=True) as machine:
        machine.write(Region.IMEM, assemble("HALT"))
        machine.run(100)
        ticks = machine.ticks
    text = path.read_text()
    assert "s_axil_awaddr" in text and "sequencer" in text
    assert int(re.findall(r"^#(\d+)$", text, re.MULTILINE)[-1]) in (2 * ticks - 1, 2 * ticks - 2)
    layout = layout_path(path).read_text()
    traces = re.findall(r"^top\..*$", layout, re.MULTILINE)
    missing = [trace for trace in traces if trace not in signals(text)]
    assert len(traces) > 200 and len(missing) < len(traces) / 10, missing  # ports that this architecture does not use
    for stage in ("Control", "Fetch", "Issue", "Compute", "Post-processing", "Memory", "Host"):
        assert re.search(rf"^-{stage} \([1-9]\d*\)$", layout, re.MULTILINE), stage


def signals(vcd: str) -> set[str]:
    """Names of the signals of a VCD file, with their scopes and ranges."""
    found, scope = set(), []
    for line in vcd.partition("$enddefinitions")[0].splitlines():
        words = line.split()
        if words[:1] == ["$scope"]:
            scope.append(words[2])
        elif words[:1] == ["$upscope"]:
            scope.pop()
        elif words[:1] == ["$var"]:
            found.add(".".join([*scope, words[4]]) + (words[5] if words[5] != "$end" else ""))
    return found


def test_waves_refusals(tmp_path):
    with pytest.raises(ToolError, match=r"^Waves are written as \.vcd or \.fst, not as 'run\.txt'\.$"):
        Rtl(SMALLEST, waves="run.txt")
    with pytest.raises(ToolError, match=r"^The file .*missing/run\.vcd for waves cannot be written"):
        Rtl(SMALLEST, waves=tmp_path / "missing" / "run.vcd", quiet=True)


def test_fst_needs_headers(monkeypatch, tmp_path):
    """Where lz4's headers are missing (here: where the compiler finds nothing), FST waves are refused before the build."""
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(ToolError, match=r"^Waves as \.fst need the headers of lz4 and zlib, .*or write waves as \.vcd\.$"):
        Rtl(ARCH, waves=tmp_path / "run.fst")


@pytest.mark.parametrize("jobs", [1, 3])
def test_images_side_by_side(jobs):
    """The number of simulators changes nothing; a trap in one image stops the batch and the rest is good for the next."""
    case, program = find_case(lambda p: len(p.segments) == 1)
    inputs = {name: np.concatenate([x] * 4) for name, x in case.inputs.items()}
    want = Golden(program).run(inputs)
    with Verilator(program, quiet=True, jobs=jobs) as machine:
        limit, program.segments[0].cycle_limit = program.segments[0].cycle_limit, 20
        with pytest.raises(TrapError, match=r"^The machine stopped with trap CYCLES"):
            machine.run(inputs)
        program.segments[0].cycle_limit = limit
        got = machine.run(inputs)
    for name in program.outputs:
        assert np.array_equal(got.outputs[name], want.outputs[name])


def test_interrupted_batch():
    """Ctrl-C while the batch runs (here: in the progress callback) comes out at once, and the machines are good still."""
    case, program = find_case(lambda p: len(p.segments) == 1)
    inputs = {name: np.concatenate([x] * 6) for name, x in case.inputs.items()}

    def interrupt(done, total):
        raise KeyboardInterrupt

    with Verilator(program, quiet=True, jobs=2) as machine:
        with pytest.raises(KeyboardInterrupt):
            machine.run(inputs, progress=interrupt)
        got = machine.run(inputs)
    assert all(np.array_equal(got.outputs[name], y) for name, y in Golden(program).run(inputs).outputs.items())
