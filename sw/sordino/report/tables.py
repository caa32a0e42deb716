"""Tables of figures for the terminal."""

from ..runtime.stats import LayerStats, Stats
from ..table import Table

__all__ = ["stats_table"]

STALLS = ("fetch", "ppu", "marker", "idle")

WIDE, MEDIUM = 120, 80
"""Columns of a terminal from which on every cause of cycles has a column, and from which on there is one for all stalls."""


def stats_table(stats: Stats, title: str, width: int = WIDE) -> Table:
    """Per layer and in all, means of an image. Cycles and η only where the back end counts them.

    What a terminal of less than `WIDE` columns has no room for is left out; the names of the layers, cycles and η stay.
    """
    counted = stats.cycles is not None
    table = Table(title=title)
    table.add_column("layer", overflow="fold", min_width=8)
    for name in _columns(width, counted):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for layer in stats.layers:
        table.add_row(layer.name, *_row(layer, width, counted))
    table.add_section()
    table.add_row(stats.total.name, *_row(stats.total, width, counted))
    if not counted:
        table.caption = "The golden model computes values; for cycles use the back end timing or verilator."
    return table


def _columns(width: int, counted: bool) -> list[str]:
    names = ["kind", "MACs", "non-zero"] if width >= WIDE else ["kind"] if width >= MEDIUM else []
    names += ["events", "density"] if width >= MEDIUM else ["density"]
    if counted:
        names += ["cycles", *(("busy", *(STALLS if width >= WIDE else ("stalled",))) if width >= MEDIUM else ()), "η"]
    return names


def _row(x: LayerStats, width: int, counted: bool) -> list[str]:
    cells = {
        "kind": x.kind,
        "MACs": f"{x.macs:,.0f}",
        "non-zero": f"{x.nonzero_macs:,.0f}",
        "events": f"{x.events:,.0f}",
        "density": f"{x.density:.1%}",
    }
    if x.cycles is not None and x.causes is not None:
        cells |= {name: f"{x.causes[name]:,.0f}" for name in ("busy", *STALLS)}
        cells["stalled"] = f"{sum(x.causes[name] for name in STALLS):,.0f}"
        cells |= {"cycles": f"{x.cycles:,.0f}", "η": "" if x.eta is None else f"{x.eta:.3f}"}
    return [cells[name] for name in _columns(width, counted)]
