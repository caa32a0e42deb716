"""What a report consists of: a page of sections, each with a table, a plot or lines of text. One template shows them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

__all__ = ["Card", "Page", "Section", "Table", "layer_table", "ms", "time_cards"]


@dataclass(frozen=True)
class Card:
    """One figure in large type."""

    value: str
    label: str


@dataclass(frozen=True)
class Table:
    """Cells are text. The first column is that of names; `total` marks the last row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: bool = False
    text: bool = False
    """Whether all columns hold text, which is aligned to the left and wrapped."""


@dataclass(frozen=True)
class Section:
    title: str
    note: str = ""
    table: Table | None = None
    plot: Markup | None = None
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    title: str
    intro: Sequence[str]
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = ()
    again: str = ""
    """The command that repeats the figures."""
    head: str = field(default="Sordino")


def ms(value: float | None) -> str:
    """Milliseconds, or microseconds where there are few."""
    if value is None:
        return "–"
    return f"{1e3 * value:,.1f} µs" if value < 0.1 else f"{value:,.3f} ms" if value < 10 else f"{value:,.1f} ms"


def time_cards(time: Mapping[str, Any] | None) -> list[Card]:
    """Compute, weights and link, frames a second; none without a clock."""
    if time is None or time["clock_mhz"] is None:
        return []
    return [
        Card(ms(time["compute_ms"]), f"compute, at {time['clock_mhz']:g} MHz"),
        Card(f"{ms(time['load_ms'])} + {ms(time['link_ms'])}", "loading weights + link, for each image"),
        Card(f"{time['frames_per_second']:,.0f}", f"frames/s ({time['compute_frames_per_second']:,.0f} compute only)"),
    ]


def layer_table(stats: Mapping[str, Any], mhz: float | None = None) -> Table:
    """Figures by layer. What matters most stands first, so that it is in sight on a narrow screen too."""
    counted = stats["total"]["cycles"] is not None
    causes = ("busy", "fetch", "ppu", "marker", "idle")
    head = ["layer", *(("cycles", "η") if counted else ()), "input density", *(("time",) if mhz and counted else ())]
    head += ["events", "MACs", "non-zero MACs", *(causes if counted else ()), "kind"]
    rows = []
    for x in (*stats["layers"], stats["total"]):
        cells = [x["name"]]
        if counted:
            cells += [f"{x['cycles']:,.0f}", "–" if x["eta"] is None or not x["macs"] else f"{x['eta']:.3f}"]
        cells.append(f"{x['density']:.1%}")
        if mhz and counted:
            cells.append(ms(x["cycles"] / mhz / 1e3))
        cells += [f"{x['events']:,.0f}", f"{x['macs']:,.0f}", f"{x['nonzero_macs']:,.0f}"]
        rows.append([*cells, *(f"{x['causes'][c]:,.0f}" for c in causes if counted), x["kind"]])
    return Table(head, rows, total=True)
