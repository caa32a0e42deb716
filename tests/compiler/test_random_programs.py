"""Compiled programs against the integer graph, on random layers and small networks."""

from dataclasses import dataclass

import numpy as np
import pytest

from random_layers import ARCHS, random_case
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.asm import assemble, decode_segment, disassemble
from sordino_hw.spec.isa import ADDR_BITS, Cause, Flag, Opcode
from sordino_hw.spec.program import Program
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

CHUNK = 20


def assert_equal(case, program: Program, names, got) -> None:
    want = case.graph.run(case.inputs)
    for name in names:
        assert np.array_equal(got[name], want[name]), f"{case.description}: {name}, options {program.meta}"


def check(seed: int) -> None:
    """Every tensor without reuse of memory, densely and not; the outputs with reuse."""
    case = random_case(seed)
    case.graph.check()
    for dense in (False, True):
        program = compile_graph(case.graph, dense=dense, reuse=False, mapping=case.mapping)
        program.check()
        assert all(t.kept for t in program.tensors.values())
        names = [n.out.name for n in case.graph.nodes if n.out.name in program.tensors]
        assert set(program.outputs) <= set(names)
        assert_equal(case, program, names, Golden(program).run(case.inputs, keep=names).tensors)
    program = compile_graph(case.graph)
    program.check()
    assert_equal(case, program, case.graph.outputs, Golden(program).run(case.inputs).outputs)


@pytest.mark.parametrize("chunk", range(10))
def test_program_equals_graph(chunk, seed):
    first = int(np.random.default_rng(seed).integers(1 << 40))
    for i in range(CHUNK):
        check(first + i)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(100))
def test_program_equals_graph_on_2000(chunk):
    for i in range(CHUNK):
        check(chunk * CHUNK + i)


def test_cases_cover_what_they_claim():
    """Every operator, flag and architecture, tiles, bands, segments and ways to use the cores appear among the cases."""
    kinds, archs, flags, features, uses = set(), set(), Flag(0), set(), set()
    for i in range(200):
        case = random_case(i)
        program = compile_graph(case.graph, mapping=case.mapping)
        archs.add(case.arch.name)
        kinds |= {layer.kind for layer in program.layers} | {n.kind for n in case.graph.nodes}
        features |= {"segments"} if len(program.segments) > 1 else set()
        features |= {"folded"} if any(t.fold > 1 for t in program.tensors.values()) else set()
        for segment in program.segments:
            stored = set()
            for step in decode_segment(segment.imem, program.arch):
                flags |= step.flags
                if step.opcode in (Opcode.CONV, Opcode.VEC):
                    uses.add((step.regs["SPLIT"], step.regs["SLICES"]))
                    features |= {"runs"} if step.regs["RUN"] > 1 else set()
                    features |= {"idle cores"} if step.regs["SPLIT"] * step.regs["SLICES"] < case.arch.cores else set()
                    if step.has(Flag.SINK):
                        features |= {"bands"} if step.regs["W_BASE"] in stored else set()
                        stored.add(step.regs["W_BASE"])
                    features |= {"KX"} if step.regs["KX"] > 1 else {"SPAN"} if step.regs["SPAN"] > 1 else set()
    assert archs == {a.name for a in ARCHS}
    assert kinds >= {"conv", "depthwise", "maxpool", "concat", "slice", "flatten", "input"}
    assert kinds >= {"linear", "avgpool", "upsample", "relayout"}
    assert flags == Flag.SOURCE | Flag.SINK | Flag.RESIDUAL | Flag.TABLE | Flag.WINDOW
    assert features == {"segments", "bands", "KX", "SPAN", "runs", "idle cores", "folded"}
    assert uses >= {(split, 1) for split in (1, 2, 4, 8)} | {(1, n) for n in range(1, 5)} | {(2, 2), (2, 3), (4, 2)}


def test_a_case_follows_from_its_seed():
    a, b = random_case(7), random_case(7)
    assert a.description == b.description
    assert compile_graph(a.graph)._document() == compile_graph(b.graph)._document()
    assert all(np.array_equal(a.inputs[name], b.inputs[name]) for name in a.inputs)


def test_cycle_limit_bounds_the_run(seed):
    """The compiler's limit, twice its bound, is never reached: not even its half, densely."""
    first = int(np.random.default_rng(seed).integers(1 << 40))
    for i in range(100):
        case = random_case(first + i)
        for dense in (False, True):
            program = compile_graph(case.graph, dense=dense, mapping=case.mapping)
            records = Timing(program).run(case.inputs).records
            row = 0
            for segment in program.segments:
                mine = records[:, row : row + len(segment.ops) + 1, 0, : len(Cause)]
                row += len(segment.ops) + 1
                assert 2 * mine.sum((1, 2)).max() <= segment.cycle_limit, case.description


def words_of(step, span: bool) -> set[int]:
    """Addresses that an operation reads (`span`) or stores to, by its registers."""
    r, out = step.regs, set()
    for oy in range(r["OH"]):
        for ox in range(r["OW"]):
            if not span:
                out.update(r["O_BASE"] + oy * r["O_OY"] + ox * r["O_OX"] + s for s in range(r["SLICES"]))
                continue
            qy, qx = oy // r["REPY"], ox // r["REPX"]
            if step.has(Flag.RESIDUAL):
                out.update(r["R_BASE"] + oy * r["R_OY"] + ox * r["R_OX"] + s for s in range(r["SLICES"]))
            for ky in range(r["KH"]):
                for kx in range(r["KX"]):
                    for p in range(r["SPAN"]):
                        y, x = r["IY0"] + qy * r["SY"] + ky * r["DY"], r["IX0"] + qx * r["SX"] + kx * r["DX"] + p
                        if 0 <= y < r["H"] and 0 <= x < r["W"]:
                            a = r["A_BASE"] + qy * r["A_OY"] + qx * r["A_OX"] + ky * r["A_KY"] + kx * r["A_KX"] + p * r["WORDS"]
                            out.update(range(a, a + r["WORDS"]))
    return {a & (1 << ADDR_BITS) - 1 for a in out}


@dataclass
class Waits:
    """What the WAITs of a program are for. A WAIT is needed where the operation after it conflicts with those before it."""

    all: int = 0
    stores: int = 0
    """Needed because what is read was written before."""
    reads: int = 0
    """Needed only because what is written was read before."""

    def count(self, case) -> None:
        """Adds a case's WAITs; asserts that none is missing.

        No operation reads, in activations or state, what was written since the last WAIT, or writes activations that were read
        or written since: groups of cores do not wait for each other.
        """
        program = compile_graph(case.graph, mapping=case.mapping)
        for segment in program.segments:
            fresh, before, waited = set(), set(), False
            busy, busy_before = set(), set()
            for step in decode_segment(segment.imem, program.arch):
                if step.opcode is Opcode.WAIT:
                    before, fresh, waited = fresh, set(), True
                    busy, busy_before = set(), busy
                    self.all += 1
                elif step.opcode in (Opcode.CONV, Opcode.VEC):
                    reads = words_of(step, True) | ({"state"} if step.has(Flag.SOURCE) else set())
                    writes = {"state"} if step.has(Flag.SINK) else words_of(step, False)
                    assert not reads & fresh, case.description
                    assert not (writes - {"state"}) & (busy | fresh), case.description
                    self.stores += waited and bool(reads & before)
                    self.reads += waited and not reads & before and bool(writes & busy_before)
                    waited = False
                    fresh |= writes
                    busy |= reads


def test_reads_wait_for_stores(seed):
    """No WAIT is missing."""
    first = int(np.random.default_rng(seed).integers(1 << 40))
    waits = Waits()
    for i in range(100):
        waits.count(random_case(first + i))
    assert waits.stores > 0


def test_few_waits_go_unneeded():
    """A measure of the compiler, so of the same cases for every seed: columns of a buffer are tracked, not its words."""
    waits = Waits()
    for i in range(300):
        waits.count(random_case(i))
    assert waits.reads > 0
    assert waits.stores + waits.reads > 0.95 * waits.all


def test_disassembly_restores_every_word(seed):
    for i in range(20):
        for segment in compile_graph(random_case(int(np.random.default_rng([*seed, i]).integers(1 << 40))).graph).segments:
            assert np.array_equal(assemble("\n".join(disassemble(segment.imem))), segment.imem)
