"""The floorplan: affinity of macros, where they go, and that the places exist."""

import json

import numpy as np
import pytest

from sordino_hw.fpga import DEVICES
from sordino_hw.fpga import floorplan as module
from sordino_hw.fpga.devices import Site
from sordino_hw.fpga.floorplan import _PULL, affinity, arrange, floorplan, write_floorplan
from sordino_hw.fpga.tools import run


def cell(kind: str, *bits) -> dict:
    return {"type": kind, "connections": {"X": list(bits)}}


def chain(macros: int, between: int = 3) -> dict[str, dict]:
    """Macros in a row, with `between` cells from each to the next; the first bit is a constant, as in real netlists."""
    cells, net = {}, 2
    for k in range(macros):
        cells[f"macro_{k}"] = cell("RAM", "0", net, *([net - 1] if k else []))
        for i in range(between if k + 1 < macros else 0):
            cells[f"cell_{k}_{i}"] = cell("LUT", net, net + 1)
            net += 1
        net += 1
    return cells


def line(count: int, kind: str = "RAM") -> dict[str, tuple[Site, ...]]:
    return {kind: tuple(Site(3 * k, 5, f"X{3 * k}/Y5/{kind}") for k in range(count))}


def test_affinity_is_the_schur_complement(rng):
    """Against the whole Laplacian, solved densely: nets of two and three cells, at random."""
    cells = [{"type": "LUT", "connections": {"X": []}} for _ in range(30)]
    weight = np.zeros((30, 30))
    for net in range(2, 60):
        members = rng.choice(30, int(rng.integers(2, 4)), replace=False)
        for i in members:
            cells[i]["connections"]["X"].append(net)
            weight[i, members] += 1 / (len(members) - 1)
    np.fill_diagonal(weight, 0)
    laplacian = np.diag(weight.sum(axis=0)) - weight
    macros, rest = [3, 17, 4, 29], [i for i in range(30) if i not in (3, 17, 4, 29)]
    inner = laplacian[np.ix_(rest, rest)] + _PULL * np.eye(len(rest))
    outer = laplacian[np.ix_(rest, macros)]
    schur = laplacian[np.ix_(macros, macros)] - outer.T @ np.linalg.solve(inner, outer)
    expected = -schur
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(affinity(cells, macros, 1e-9), expected, atol=1e-6)


def test_wide_nets_say_nothing():
    cells = [cell("RAM", 2, 3), cell("RAM", 2, 3), *(cell("LUT", 3) for _ in range(60))]
    np.testing.assert_allclose(affinity(cells, [0, 1]), [[0, 1], [1, 0]], atol=1e-9)


@pytest.mark.parametrize("sites", [9, 14])
def test_a_chain_lies_in_order(sites):
    placed = floorplan(chain(9), line(sites), seed=1)
    columns = [int(placed[f"macro_{k}"].split("/")[0][1:]) for k in range(9)]
    assert set(placed) == {f"macro_{k}" for k in range(9)} and len(set(columns)) == 9
    ends = columns[-1] - columns[0]
    assert abs(ends) == 24, "no shorter than one site after the other, and no longer"
    assert columns == sorted(columns, reverse=ends < 0)


def test_macros_stay_on_sites_of_their_kind(rng):
    pull = rng.random((12, 12))
    kinds = ["RAM"] * 7 + ["MUL"] * 5
    places = {"RAM": rng.random((10, 2)), "MUL": rng.random((5, 2))}
    chosen = arrange(pull + pull.T, kinds, places, seed=3)
    assert sorted(chosen[7:]) == list(range(5)) and len(set(chosen[:7])) == 7 and max(chosen[:7]) < 10
    np.testing.assert_array_equal(chosen, arrange(pull + pull.T, kinds, places, seed=3))


def test_annealing_pays(rng):
    """Two clusters that pull within themselves alone: none of their macros is left among the others."""
    pull = np.kron(np.eye(2), np.ones((8, 8))) - np.eye(16)
    order = rng.permutation(16)
    chosen = arrange(pull[np.ix_(order, order)], ["RAM"] * 16, {"RAM": np.array([(x, 0.0) for x in range(16)])}, seed=2)
    assert {frozenset(chosen[order < 8]), frozenset(chosen[order >= 8])} == {frozenset(range(8)), frozenset(range(8, 16))}


@pytest.mark.parametrize("cells", [chain(1), chain(5), {"lut": cell("LUT", 2)}])
def test_what_cannot_be_placed_is_left_to_the_placer(cells):
    assert floorplan(cells, line(4), seed=1) == {}


def test_only_macros_of_the_top_are_placed(tmp_path):
    other = {"attributes": {}, "cells": {"ram": cell("RAM", 2)}}
    document = {
        "modules": {"library": other, "top": {"attributes": {"top": "00000000000000000000000000000001"}, "cells": chain(3)}}
    }
    (tmp_path / "in.json").write_text(json.dumps(document))
    write_floorplan(tmp_path / "in.json", tmp_path / "out.json", line(3), seed=1)
    placed = json.loads((tmp_path / "out.json").read_text())
    bels = {name: c.pop("attributes")["BEL"] for name, c in placed["modules"]["top"]["cells"].items() if "attributes" in c}
    assert set(bels) == {"macro_0", "macro_1", "macro_2"} and set(bels.values()) == {s.bel for s in line(3)["RAM"]}
    assert placed == document and document == json.loads((tmp_path / "in.json").read_text())


def test_the_affinity_is_kept_until_the_netlist_changes(tmp_path, monkeypatch):
    computed, netlist = [], tmp_path / "in.json"
    circuits = (chain(4), chain(3))
    expected = [[floorplan(cells, line(4), seed) for seed in (1, 2)] for cells in circuits]
    monkeypatch.setattr(module, "affinity", lambda *arguments: computed.append(1) or affinity(*arguments))
    for cells, places in zip(circuits, expected, strict=True):
        netlist.write_text(json.dumps({"modules": {"top": {"attributes": {"top": "1"}, "cells": cells}}}))
        for seed in (1, 2):
            write_floorplan(netlist, tmp_path / "out.json", line(4), seed)
            placed = json.loads((tmp_path / "out.json").read_text())["modules"]["top"]["cells"]
            assert {name: c["attributes"]["BEL"] for name, c in placed.items() if "attributes" in c} == places[seed - 1]
    assert len(computed) == 2 and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("name, counts", [("ulx3s-85f", (208, 156)), ("ecp5-25f", (56, 28)), ("icebreaker", ())])
def test_sites(name, counts):
    sites = DEVICES[name].sites
    assert tuple(len(places) for places in sites.values()) == counts
    assert len({site.bel for places in sites.values() for site in places}) == sum(counts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ulx3s-85f", "ecp5-25f"])
def test_nextpnr_has_a_macro_at_every_site(name, tmp_path):
    device = DEVICES[name]
    cells = {
        f"macro_{k}": {
            "hide_name": 0,
            "type": kind,
            "parameters": {},
            "port_directions": {},
            "connections": {},
            "attributes": {"BEL": site.bel, "keep": "1"},
        }
        for kind, sites in device.sites.items()
        for k, site in enumerate(sites, 1000 * len(kind))
    }
    top = {"attributes": {"top": "1"}, "ports": {}, "netnames": {}, "cells": cells}
    (tmp_path / "netlist.json").write_text(json.dumps({"creator": "test", "modules": {"top": top}}))
    log = run(device.nextpnr, [*device.options, "--json", "netlist.json", "--no-route"], tmp_path, "log")
    assert all(f"{kind}: {len(sites):>7}/{len(sites):>7}" in log.replace("\t", "") for kind, sites in device.sites.items()), log[
        -3000:
    ]
