"""The routing resource graph of a device: wires, and the pips (programmable switches) between them."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...compiled import compiled
from ..chip import Chip
from ..fabric import SLOTS, SLOTS_PER_SLICE

__all__ = ["LOCAL", "NODE", "SLICES", "Graph", "Rule", "sort_by"]

SLICES = SLOTS // SLOTS_PER_SLICE
"""Slices of a logic tile."""


class Rule:
    """Which inputs of a slice's LUTs may be permuted: `ALL`; `CARRY`, A with B and C with D; or `NONE`."""

    ALL, CARRY, NONE = range(3)


NODE = np.dtype(
    [
        ("x", "u1"), ("y", "u1"), ("category", "u1"), ("used", "u1"), ("base_cost", "f4"), ("cost", "f4"), ("step", "i4"),
        ("tree", "i4"), ("parent", "i4"), ("via", "i4"), ("time", "f4"),
    ]
)  # fmt: skip
"""A wire, in 36 bytes, about half a cache line.

x, y : its tile; category : see `Graph`; used : number of nets that use it, far below 255, since its cost soon exceeds that of any
    detour
base_cost : ps, what using it costs, with the history of its congestion
cost, step : of the A* search numbered `step` that has reached it; -step once its best path is known
tree : number of the routing tree that it is in; parent, via : the wire and the edge from which it is reached; time : ps from the
source """

_EDGE = np.dtype([("head", "i4"), ("delay", "i2"), ("load", "i2")])

LOCAL = 255
"""Category of local wires: those that lead to pins of cells only."""

_OTHER = 0
_COMMON = 500
"""Wires whose names differ in digits alone are a category of their own if there are so many; the others share one."""

_CLOCKS = re.compile(r"G_.*|J?(?:MUX|W)?CLK\w*|WCK\w*")
_SPAN = re.compile(r"[HV]0(\d)[NSEWLRTB]")
_BASE_COST = {"1": 150.0, "2": 260.0, "6": 480.0}
"""Of a wire by the tiles that it spans: the ps of delay that a non-critical net accepts rather than use it. About in proportion to
the wires' own delays and to how scarce they are; found by trial on `ulx3s-85f`."""
_BASE_COST_OTHER = 50.0


@dataclass(frozen=True)
class Graph:
    """Wires are nodes and pips are edges; those of the clock network are left out, nextpnr routes it.

    first : (tiles + 1,) int64, number of each tile's first wire
    nodes : (wires,) of `NODE`
    start : (wires + 1,) int64, first edge of each wire
    edges : (edges,) of `head`, the wire that it leads to; `delay` and `load`, ps, the latter for every edge taken from the same
        wire
    pip : (edges,) int32, number of the pip among those of all tiles
    pip_first : (tiles + 1,) int64, number of each tile's first pip
    up_start, up : (wires + 1,) int64 and int32, edges between local wires, by the wire they lead to: the wires that they come from
    categories : names of the categories of wires that are alike, digits left out
    names, pips : (types of tiles,) names of their wires, and their pips
    """

    chip: Chip
    first: NDArray[np.int64]
    nodes: NDArray[np.void]
    start: NDArray[np.int64]
    edges: NDArray[np.void]
    pip: NDArray[np.int32]
    pip_first: NDArray[np.int64]
    up_start: NDArray[np.int64]
    up: NDArray[np.int32]
    categories: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    pips: tuple[NDArray[np.void], ...]

    @classmethod
    def of(cls, chip: Chip, speed: int, rules: NDArray[np.uint8]) -> "Graph":
        """`speed`: the grade whose delays the edges have; `rules`: (tiles, SLICES) of `Rule`. Raises `ToolError` for a grade that
        does not exist, and where the database makes no sense."""
        kinds = range(int(chip.type_of.max()) + 1)
        names = tuple(chip.wires(kind) for kind in kinds)
        pips = tuple(chip.pips(kind) for kind in kinds)
        first = np.concatenate([[0], np.cumsum(np.array([len(n) for n in names])[chip.type_of])])
        pip_first = np.concatenate([[0], np.cumsum(np.array([len(p) for p in pips])[chip.type_of])])
        tail, head, delay_class, pip = _usable_pips(chip, names, pips, first, pip_first, rules)
        start, order = sort_by(tail, int(first[-1]))
        tail, head, delay_class = tail[order], head[order], delay_class[order]
        delays = chip.pip_delays(speed)
        if delay_class.min() < 0 or delay_class.max() >= len(delays):
            raise chip.image.error()
        edges = np.zeros(len(head), _EDGE)
        edges["head"], edges["delay"], edges["load"] = head, delays["max"][delay_class], delays["max_per_fanout"][delay_class]
        local = _local_wires(start, head)
        last = np.flatnonzero(local[head] & local[tail])
        up_start, up = sort_by(head[last], len(local))
        categories, of_kind = _categories(chip, names)
        nodes = np.zeros(len(local), NODE)
        nodes["category"] = np.where(local, LOCAL, np.concatenate([of_kind[kind] for kind in chip.type_of]))
        tile = np.repeat(np.arange(len(chip.type_of)), np.diff(first))
        nodes["x"], nodes["y"] = tile % chip.columns, tile // chip.columns
        costs = np.full(LOCAL + 1, _BASE_COST_OTHER, np.float32)
        for k, category in enumerate(categories):
            if match := _SPAN.fullmatch(category):
                costs[k] = _BASE_COST.get(match[1], _BASE_COST_OTHER)
        nodes["base_cost"] = costs[nodes["category"]]
        return cls(chip, first, nodes, start, edges, pip[order], pip_first, up_start, tail[last][up], categories, names, pips)

    def wire_name(self, wire: int) -> str:
        """As nextpnr names it."""
        tile = int(np.searchsorted(self.first, wire, "right")) - 1
        return f"{self._place(tile)}/{self._names(tile)[wire - int(self.first[tile])]}"

    def pip_name(self, edge: int) -> str:
        """Of an edge's pip, as nextpnr names it."""
        number = int(self.pip[edge])
        tile = int(np.searchsorted(self.pip_first, number, "right")) - 1
        pip = self.pips[self.chip.type_of[tile]][number - int(self.pip_first[tile])]
        ends = []
        for x, y, wire in ((pip["from_x"], pip["from_y"], pip["source"]), (pip["to_x"], pip["to_y"], pip["target"])):
            ends.append(f"{x}_{y}_{self._names(tile + int(y) * self.chip.columns + int(x))[wire]}")
        return f"{self._place(tile)}/{'->'.join(ends)}"

    def _place(self, tile: int) -> str:
        return f"X{tile % self.chip.columns}/Y{tile // self.chip.columns}"

    def _names(self, tile: int) -> tuple[str, ...]:
        return self.names[self.chip.type_of[tile]]


def _categories(chip: Chip, names: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], list[NDArray[np.uint8]]]:
    """Names of the categories, and for each type of tile those of its wires."""
    tiles = np.bincount(chip.type_of, minlength=len(names))
    short = [[_category(name) for name in wires] for wires in names]
    count: dict[str, int] = {}
    for kind, wires in enumerate(short):
        for name in wires:
            count[name] = count.get(name, 0) + int(tiles[kind])
    common = sorted((name for name, many in count.items() if many >= _COMMON), key=lambda name: -count[name])[: LOCAL - 1]
    number = {name: k + 1 for k, name in enumerate(common)}
    return ("", *common), [np.array([number.get(name, _OTHER) for name in wires], np.uint8) for wires in short]


def _category(name: str) -> str:
    return name[:4] if _SPAN.match(name) else name.rstrip("0123456789")


def _usable_pips(
    chip: Chip,
    names: tuple[tuple[str, ...], ...],
    pips: tuple[NDArray[np.void], ...],
    first: NDArray[np.int64],
    pip_first: NDArray[np.int64],
    rules: NDArray[np.uint8],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int16], NDArray[np.int32]]:
    """Wires at both ends, delay class, and number, of all pips that may be closed: (pips,) int32, int32, int16, int32."""
    clocks = [np.array([bool(_CLOCKS.fullmatch(name)) for name in wires], bool) for wires in names]
    clock = np.concatenate([clocks[kind] for kind in chip.type_of])
    found = []
    for kind, table in enumerate(pips):
        tiles = np.flatnonzero(chip.type_of == kind)
        if not len(table) or not len(tiles):
            continue
        tail, head = (
            _wires(chip, first, tiles[:, None] + table[f"{end}_y"].astype(np.int64) * chip.columns + table[f"{end}_x"], table[wire])
            for end, wire in (("from", "source"), ("to", "target"))
        )
        permutes, lut, output, entry = _permutation(table["permutation"])
        rule = rules[tiles][:, lut // SLOTS_PER_SLICE]
        free = ~permutes | (rule == Rule.ALL) | ((rule == Rule.CARRY) & (output // 2 == entry // 2))
        free &= ~(clock[tail] | clock[head])
        number = (pip_first[tiles][:, None] + np.arange(len(table))).astype(np.int32)
        delay_class = np.broadcast_to(table["delay_class"], free.shape)
        found.append([a[free] for a in (tail, head, delay_class, number)])
    tails, heads, classes, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return tails, heads, classes, numbers


def _permutation(flags: NDArray[np.int16]) -> tuple[NDArray[np.bool_], NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """Of pips, see `lutperm_lut` and so on in nextpnr's `ecp5/arch.h`: whether one permutes the inputs of a LUT, then the number of
    that LUT in its tile, of the input it leads to, and of the input it comes from."""
    return (flags & 0x4000) != 0, flags >> 4 & 7, flags >> 2 & 3, flags & 3


def _wires(chip: Chip, first: NDArray[np.int64], tile: NDArray[np.int64], wire: NDArray[np.int16]) -> NDArray[np.int32]:
    """(tiles, pips) int32, numbers of wires from tiles and numbers in them. Raises `ToolError` for such as the tiles do not
    have."""
    if tile.min() < 0 or tile.max() >= len(first) - 1 or wire.min() < 0 or (wire >= np.diff(first)[tile]).any():
        raise chip.image.error()
    return (first[tile] + wire).astype(np.int32)


@compiled
def sort_by(key, count):
    """Counting sort of `key` (n,) int, values below `count`. Returns the first place of each value (count + 1,) int64, and the
    items in their order (n,) int32."""
    start = np.zeros(count + 1, np.int64)
    for k in key:
        start[k + 1] += 1
    start = np.cumsum(start)
    at, order = start.copy(), np.empty(len(key), np.int32)
    for i in range(len(key)):
        order[at[key[i]]] = i
        at[key[i]] += 1
    return start, order


@compiled
def _local_wires(start, head):
    """(wires,) bool, those from which only such wires are reached, in the end pins of cells: no path leads through them. `start`
    (wires + 1,) int64, `head` (edges,) int32."""
    local = start[:-1] == start[1:]
    while True:
        changed = False
        for w in range(len(local)):
            if not local[w]:
                only = True
                for e in range(start[w], start[w + 1]):
                    if not local[head[e]]:
                        only = False
                        break
                if only:
                    local[w] = changed = True
        if not changed:
            return local
