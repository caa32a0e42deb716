"""The wires of a device as a graph: what the router searches."""

import re
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .chip import Chip

__all__ = ["ENDS", "NODE", "SLICES", "Graph", "Rule", "by"]

SLICES = 4
"""Slices of a logic tile, two LUTs each."""


class Rule:
    """Which inputs of a slice's LUTs the wires may exchange: `ALL`; `CARRY`, A with B and C with D; or `NONE`."""

    ALL, CARRY, NONE = range(3)


NODE = np.dtype(
    [
        ("x", "u1"), ("y", "u1"), ("category", "u1"), ("used", "u1"), ("price", "f4"), ("cost", "f4"), ("step", "i4"),
        ("tree", "i4"), ("parent", "i4"), ("via", "i4"), ("time", "f4"),
    ]
)  # fmt: skip
"""A wire, in half a line of the cache: its tile, its kind, how many nets use it, what that costs; and what a search knows of it: cost
and number of the search, the net's tree that it is in, the wire and the edge from which it is reached, ps from the source. No wire comes
near 255 nets: with far less its price is above that of any way around it."""

_EDGE = np.dtype([("head", "i4"), ("delay", "i2"), ("load", "i2")])

ENDS = 255
"""Category of wires that lead to pins of cells only."""

_OTHER = 0
_COMMON = 500
"""Wires of a name, digits left out, from which on they are a category of their own."""

_CLOCKS = re.compile(r"G_.*|J?(?:MUX|W)?CLK\w*|WCK\w*")
_SPAN = re.compile(r"[HV]0(\d)[NSEWLRTB]")
_PRICE = {"1": 150.0, "2": 260.0, "6": 480.0}
"""Of a wire by the tiles that it spans, in ps of delay that a net without hurry would rather take."""
_PRICE_OTHER = 50.0


@dataclass(frozen=True)
class Graph:
    """Wires and the switches between them; those of the clock network are left out, nextpnr routes it.

    first : (tiles + 1,) number of each tile's first wire
    nodes : (wires,) of `NODE`
    start : (wires + 1,) first edge of each wire
    edges : (edges,) `head`, the wire that it leads to; `delay` and `load`, ps, the latter for every edge taken from the same wire
    pip : (edges,) number of the switch among those of all tiles
    pip_first : (tiles + 1,) number of each tile's first switch
    up_start, up : edges between wires that end, by the wire they lead to: the wires that they come from
    categories : names of the categories
    names, pips : (types of tiles,) names of their wires, and their switches
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
    def of(cls, chip: Chip, grade: int, rules: NDArray[np.uint8]) -> "Graph":
        """`rules`: (tiles, SLICES) of `Rule`. Grade 0 is speed 6."""
        kinds = range(int(chip.type_of.max()) + 1)
        names = tuple(chip.wires(kind) for kind in kinds)
        pips = tuple(chip.pips(kind) for kind in kinds)
        first = np.concatenate([[0], np.cumsum(np.array([len(n) for n in names])[chip.type_of])])
        pip_first = np.concatenate([[0], np.cumsum(np.array([len(p) for p in pips])[chip.type_of])])
        tail, head, timing, pip = _switches(chip, names, pips, first, pip_first, rules)
        start, order = by(tail, int(first[-1]))
        tail, head, timing = tail[order], head[order], timing[order]
        delays = chip.delays(grade)
        if timing.min() < 0 or timing.max() >= len(delays):
            raise chip.error()
        edges = np.zeros(len(head), _EDGE)
        edges["head"], edges["delay"], edges["load"] = head, delays["most"][timing], delays["most_load"][timing]
        ends = _ends(start, head)
        last = np.flatnonzero(ends[head] & ends[tail])
        up_start, up = by(head[last], len(ends))
        categories, of_kind = _categories(chip, names)
        nodes = np.zeros(len(ends), NODE)
        nodes["category"] = np.where(ends, ENDS, np.concatenate([of_kind[kind] for kind in chip.type_of]))
        tile = np.repeat(np.arange(len(chip.type_of)), np.diff(first))
        nodes["x"], nodes["y"] = tile % chip.columns, tile // chip.columns
        prices = np.full(ENDS + 1, _PRICE_OTHER, np.float32)
        for k, category in enumerate(categories):
            if match := _SPAN.fullmatch(category):
                prices[k] = _PRICE.get(match[1], _PRICE_OTHER)
        nodes["price"] = prices[nodes["category"]]
        return cls(chip, first, nodes, start, edges, pip[order], pip_first, up_start, tail[last][up], categories, names, pips)

    def wire_name(self, wire: int) -> str:
        tile = int(np.searchsorted(self.first, wire, "right")) - 1
        return f"{self._place(tile)}/{self._names(tile)[wire - int(self.first[tile])]}"

    def pip_name(self, edge: int) -> str:
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
    common = sorted((name for name, many in count.items() if many >= _COMMON), key=lambda name: -count[name])[: ENDS - 1]
    number = {name: k + 1 for k, name in enumerate(common)}
    return ("", *common), [np.array([number.get(name, _OTHER) for name in wires], np.uint8) for wires in short]


def _category(name: str) -> str:
    return name[:4] if _SPAN.match(name) else name.rstrip("0123456789")


def _switches(
    chip: Chip,
    names: tuple[tuple[str, ...], ...],
    pips: tuple[NDArray[np.void], ...],
    first: NDArray[np.int64],
    pip_first: NDArray[np.int64],
    rules: NDArray[np.uint8],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int16], NDArray[np.int32]]:
    """Wires at both ends, class of delay, and number, of all switches that may be closed."""
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
        flags = table["permutes"]
        lut, output, entry = flags >> 4 & 7, flags >> 2 & 3, flags & 3
        rule = rules[tiles][:, lut // 2]
        free = ((flags & 0x4000) == 0) | (rule == Rule.ALL) | ((rule == Rule.CARRY) & (output // 2 == entry // 2))
        free &= ~(clock[tail] | clock[head])
        number = (pip_first[tiles][:, None] + np.arange(len(table))).astype(np.int32)
        timing = np.broadcast_to(table["timing"], free.shape)
        found.append([a[free] for a in (tail, head, timing, number)])
    tails, heads, timings, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return tails, heads, timings, numbers


def _wires(chip: Chip, first: NDArray[np.int64], tile: NDArray[np.int64], wire: NDArray[np.int16]) -> NDArray[np.int32]:
    """(tiles, switches) numbers of wires. Raises `ToolError` for such as the tiles do not have."""
    if tile.min() < 0 or tile.max() >= len(first) - 1 or wire.min() < 0 or (wire >= np.diff(first)[tile]).any():
        raise chip.error()
    return (first[tile] + wire).astype(np.int32)


@njit(cache=True)
def by(key, count):
    """Sorts by counting: the first place of each key, and the items in their order."""
    start = np.zeros(count + 1, np.int64)
    for k in key:
        start[k + 1] += 1
    start = np.cumsum(start)
    at, order = start.copy(), np.empty(len(key), np.int32)
    for i in range(len(key)):
        order[at[key[i]]] = i
        at[key[i]] += 1
    return start, order


@njit(cache=True)
def _ends(start, head):
    """(wires,) those from which only such wires are reached, in the end pins of cells: no way leads through them."""
    ends = start[:-1] == start[1:]
    while True:
        changed = False
        for w in range(len(ends)):
            if not ends[w]:
                only = True
                for e in range(start[w], start[w + 1]):
                    if not ends[head[e]]:
                        only = False
                        break
                if only:
                    ends[w] = changed = True
        if not changed:
            return ends
