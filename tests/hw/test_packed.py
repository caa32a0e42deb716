"""What nextpnr has packed, read and written: chains, RAMs, pairs, control sets, nets, and what is refused."""

import json
import re

import numpy as np
import pytest
from packed_netlists import Netlist, random_netlist

from sordino_hw.ecp5_pnr.netlist import Kind, Member, Packed, Pin
from sordino_hw.spec.errors import ToolError


def index(packed: Packed) -> dict[str, int]:
    return {name: i for i, name in enumerate(packed.names)}


def refused(made: Netlist, folder, message: str) -> None:
    with pytest.raises(ToolError, match=f"^{message}$"):
        made.packed(folder)


def test_a_chain_runs_from_slot_to_slot_and_on_to_the_right(tmp_path):
    """Whatever the order of the cells in the file."""
    made = Netlist()
    a, b = made.ff("a", made.clock), made.ff("b", made.clock)
    made.chain("sum", [(a, b)] * 18, registered=True)
    made.cells = dict(reversed(made.cells.items()))
    packed = made.packed(tmp_path)
    where, (chain,) = index(packed), packed.macros
    assert chain == tuple(Member(k // 8, k % 8, where[f"sum$CCU2_COMB{k}"]) for k in range(18))
    for k in range(18):
        lut, flip_flop = where[f"sum$CCU2_COMB{k}"], where[f"sum_ff{k}"]
        assert packed.macro[[lut, flip_flop]].tolist() == [0, 0]
        assert packed.partner[lut] == flip_flop and packed.partner[flip_flop] == lut
    assert packed.macro[where["a"]] == packed.partner[where["a"]] == -1


def test_a_ram_holds_six_slots_and_its_writer(tmp_path):
    made = Netlist()
    bits = [made.ff(f"bit_{k}", made.clock) for k in range(4)]
    outs = made.ram("ram", bits, bits, bits, bits[0])
    made.ff("out", outs[2], pair=True)
    packed = made.packed(tmp_path)
    where = index(packed)
    parts = [f"ram$DPRAM_COMB{k}" for k in range(4)] + ["ram$RAMW_BLOCK0", "ram$RAMW_BLOCK1"]
    assert packed.macros == (tuple(Member(0, slot, where[part]) for slot, part in enumerate(parts)),)
    assert packed.kind[where["ram$RAMW_SLICE"]] == Kind.WRITER and packed.home[where["ram$RAMW_SLICE"]] == where["ram$DPRAM_COMB0"]
    others = [i for name, i in where.items() if name != "ram$RAMW_SLICE"]
    assert packed.home[others].tolist() == others
    assert packed.macro[where["out"]] == 0 and packed.partner[where["out"]] == where["ram$DPRAM_COMB2"]
    assert [packed.mode[where[part]] for part in parts] == ["DPRAM"] * 4 + ["RAMW_BLOCK"] * 2


def test_kinds_and_nets(tmp_path):
    """Without the clock network, without nets that nobody listens to; constants are marked."""
    made = Netlist()
    made.lut("zero")
    one = made.lut("one", None)
    a = made.ff("a", one)
    made.lut("unheard", a, one, "0")
    made.block("memory", "DP16KD", [a], [made.net()])
    made.block("multiplier", "MULT18X18D", [a], [made.net()])
    packed = made.packed(tmp_path)
    where = index(packed)
    kinds = dict.fromkeys(("zero", "one", "unheard"), Kind.LUT) | {
        "a": Kind.FF,
        "memory": Kind.MEMORY,
        "multiplier": Kind.MULTIPLIER,
    }
    assert {name: packed.kind[i] for name, i in where.items()} == kinds | dict.fromkeys(("clk$tr_io", "$gbuf$clk"), Kind.FIXED)
    nets = {net.driver: (set(net.users), net.constant) for net in packed.nets}
    assert nets == {
        Pin(where["clk$tr_io"], "O"): ({Pin(where["$gbuf$clk"], "CLKI")}, False),
        Pin(where["one"], "F"): ({Pin(where["a"], "M"), Pin(where["unheard"], "B")}, True),
        Pin(where["a"], "Q"): (
            {Pin(where["unheard"], "A"), Pin(where["memory"], "ADA0"), Pin(where["multiplier"], "A0")},
            False,
        ),
    }


def test_modes_of_multipliers(tmp_path):
    """By their parameters; nextpnr counts inputs as registered where both are."""
    made = Netlist()
    modes = {
        "INPUTA INPUTB OUTPUT": "ALL",
        "INPUTA INPUTB": "INPUT",
        "OUTPUT": "OUTPUT",
        "INPUTB OUTPUT": "OUTPUT",
        "INPUTA": "NONE",
        "": "NONE",
    }
    for registers in modes:
        made.block(registers, "MULT18X18D", [made.clock], [made.net()])
        made.cells[registers]["parameters"] = {f"REG_{name}_CLK": "CLK0" for name in registers.split()}
    packed = made.packed(tmp_path)
    assert {name: packed.mode[index(packed)[name]] for name in modes} == modes


def test_output_registers_of_block_rams(tmp_path):
    made = Netlist()
    for name in ("", "A", "B", "AB"):
        made.block(f"memory_{name}", "DP16KD", [made.clock], [made.net()])
        made.cells[f"memory_{name}"]["parameters"] = {f"REGMODE_{port}": "OUTREG" if port in name else "NOREG " for port in "AB"}
    packed = made.packed(tmp_path)
    assert all(packed.mode[index(packed)[f"memory_{name}"]] == name for name in ("", "A", "B", "AB"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"modules": {}}', '{"modules": {"top": {"cells": {}}}}'])
def test_a_file_that_is_no_netlist(content, tmp_path):
    (tmp_path / "made.json").write_text(content)
    with pytest.raises(ToolError, match=r"^made\.json is not a netlist: give what nextpnr-ecp5 writes with --pack-only --write\.$"):
        Packed.read(tmp_path / "made.json")
    with pytest.raises(ToolError, match=r"^cannot read the netlist .*none\.json: No such file or directory\.$"):
        Packed.read(tmp_path / "none.json")


def test_basic_elements(tmp_path):
    """As chosen, or where the cell is fixed, by the user or by nextpnr; the clock's buffer is known."""
    made = Netlist()
    made.ff("state", made.clock)
    packed = made.packed(tmp_path)
    where = index(packed)
    bels = {where["state"]: "X9/Y9/SLICEA.FF1"}
    places = {"clk$tr_io": "X0/Y8/PIOA", "$gbuf$clk": "X3/Y25/LDCC1", "state": "X9/Y9/SLICEA.FF1"}
    assert {name: packed.bel(where[name], bels) for name in places} == places
    assert [name for name, cell in where.items() if packed.is_clock_buffer(cell)] == ["$gbuf$clk"]


def test_control_sets(tmp_path):
    """Equal numbers where, and only where, nextpnr takes two flip-flops into one slice, or one tile."""
    made = Netlist()
    bits = [made.ff(f"bit_{k}", made.clock) for k in range(3)]
    flip_flops = {
        "plain": {},
        "also_plain": {},
        "enabled": {"ce": bits[0]},
        "also_enabled": {"ce": bits[0]},
        "by_another": {"ce": bits[1]},
        "inverted": {"ce": bits[0], "CEMUX": "INV"},
        "never": {"CEMUX": "0"},
        "global": {"GSR": "ENABLED"},
        "reset": {"lsr": bits[0]},
        "reset_by_another": {"lsr": bits[1], "ce": bits[0]},
        "at_once": {"lsr": bits[0], "SRMODE": "ASYNC"},
    }
    for name, options in flip_flops.items():
        made.ff(name, bits[2], **options)
    made.ff("other_clock", bits[2])
    made.connect("other_clock", CLK=bits[0])
    packed = made.packed(tmp_path)
    where = index(packed)

    def groups(numbers) -> set[frozenset[str]]:
        names = [*flip_flops, "other_clock"]
        return {frozenset(n for n in names if numbers[where[n]] == number) for number in {numbers[where[n]] for n in names}}

    plain = {"plain", "also_plain", "reset", "at_once", "other_clock"}
    alone = [{name} for name in ("by_another", "inverted", "never", "global")]
    assert groups(packed.enable) == {frozenset(g) for g in (plain, {"enabled", "also_enabled", "reset_by_another"}, *alone)}
    rest = set(flip_flops) - {"reset", "reset_by_another", "at_once"}
    assert groups(packed.control) == {
        frozenset(g) for g in (rest, *({n} for n in ("reset", "reset_by_another", "at_once", "other_clock")))
    }
    others = packed.kind != Kind.FF
    assert (packed.enable[others] == -1).all() and (packed.control[others] == -1).all()


def test_a_round_trip(rng, tmp_path):
    """Written with places and wires, and read again: nothing but those and the settings has changed."""
    made = random_netlist(rng)
    packed = made.packed(tmp_path)
    bels = {i: f"X{i}/Y1/SLICEA.K0" for i in range(len(packed.names)) if packed.kind[i] != Kind.FIXED}
    routes = {int(number): f"wire_{number};;1" for number in rng.choice(len(packed.nets), 20, replace=False)}
    packed.write(tmp_path / "placed.json", bels, routes, {"router": "router2", "target_freq": "80000000.0"})
    written, expected = json.loads((tmp_path / "placed.json").read_text()), made.document
    for i, (name, cell) in enumerate(expected["modules"]["top"]["cells"].items()):
        attributes = cell["attributes"]
        attributes["NEXTPNR_BEL"] = bels.get(i) or attributes.get("BEL") or attributes["NEXTPNR_BEL"]
        attributes.pop("BEL", None)
        assert packed.names[i] == name
    for number, route in routes.items():
        driver, port = packed.nets[number].driver
        (bit,) = expected["modules"]["top"]["cells"][packed.names[driver]]["connections"][port]
        expected["modules"]["top"]["netnames"][f"net_{bit}"]["attributes"]["ROUTING"] = route
    expected["modules"]["top"]["settings"].update(router="router2", target_freq="80000000.0")
    assert written == expected
    again = Packed.read(tmp_path / "placed.json")
    assert (again.names, again.mode, again.nets, again.macros) == (packed.names, packed.mode, packed.nets, packed.macros)
    for array in ("kind", "macro", "partner", "enable", "control", "home"):
        np.testing.assert_array_equal(getattr(again, array), getattr(packed, array))
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("cell, mux", [("state", "CLKMUX"), ("state", "LSRMUX"), ("lut", "WCKMUX"), ("lut", "WREMUX")])
def test_inverted_controls_are_refused(cell, mux, tmp_path):
    made = Netlist()
    made.lut("lut", made.ff("state", made.clock))
    made.cells[cell]["parameters"][mux] = "INV "
    refused(
        made,
        tmp_path,
        rf"packed\.json: {cell} has an inverted clock, reset or write enable, which the placer does not know\. Invert a reset or an enable in logic; bring an inverted clock over a DCCA of its own\.",
    )


@pytest.mark.parametrize("port", ["F1", "FXA", "FXB"])
def test_wide_luts_are_refused(port, tmp_path):
    made = Netlist()
    made.lut("wide", made.clock, **{port: made.lut("half", made.clock)})
    refused(made, tmp_path, r"packed\.json: wide is part of a LUT of five inputs or more: synthesise with -nowidelut\.")


def test_loose_parts_are_refused(tmp_path):
    """A ring of carries has no first LUT, and a RAM's LUT without a write port no RAM."""
    ring = Netlist()
    ring.chain("ring", [(ring.clock, ring.clock)] * 2)
    back = ring.net()
    ring.connect("ring$CCU2_COMB1", FCO=back)
    ring.connect("ring$CCU2_COMB0", FCI=back)
    alone = Netlist()
    alone.lut("ram$DPRAM_COMB0", alone.clock, mode="DPRAM")
    for made, name in ((ring, "ring$CCU2_COMB0"), (alone, "ram$DPRAM_COMB0")):
        message = rf"packed\.json: {re.escape(name)} belongs to no carry chain and no distributed RAM that the placer can find\."
        refused(made, tmp_path, message)


def test_multipliers_share_their_controls(tmp_path):
    """Those without a register do not count."""
    made = Netlist()
    enable, reset = made.ff("enable", made.clock), made.ff("reset", made.clock)
    for k in range(4):
        made.block(f"multiplier_{k}", "MULT18X18D", [enable], [made.net()])
    made.connect("multiplier_3", CLK0=None, CE1=enable)
    made.cells["multiplier_3"]["parameters"] = {}
    assert made.packed(tmp_path).names[-1] == "multiplier_3"
    for k, (port, bit) in enumerate((("CE0", enable), ("RST3", reset))):
        made.connect(f"multiplier_{k}", **{port: bit})
        refused(
            made,
            tmp_path,
            rf"packed\.json: its multipliers have {k + 2} different sets of clock, enable and reset; the placer takes one, because "
            r"the multipliers of a DSP block share those wires\. Give all of them the same, or make the others of logic\.",
        )


def test_unknown_cells_are_refused_unless_they_have_a_place(tmp_path):
    made = Netlist()
    made.cell("pll", "EHXPLLL", {}, CLKI=made.clock)
    refused(
        made,
        tmp_path,
        r"packed\.json: pll is of type EHXPLLL, which the placer does not know, and nextpnr has not placed it\. Give it a BEL attribute, or "
        r"leave it out of the design\.",
    )
    made.cells["pll"]["attributes"]["BEL"] = "X0/Y0/EHXPLL_LL"
    packed = made.packed(tmp_path)
    assert packed.kind[index(packed)["pll"]] == Kind.FIXED
