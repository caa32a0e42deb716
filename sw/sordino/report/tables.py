"""Tables of figures for the terminal."""

from rich.table import Table

from ..runtime.stats import LayerStats, Stats

__all__ = ["stats_table"]

STALLS = ("fetch", "ppu", "marker", "idle")
WIDE = 120
"""Columns of a terminal from which on every figure has one of its own."""


def stats_table(stats: Stats, title: str, width: int = WIDE) -> Table:
    """Per layer and in all, means of an image. Cycles and η only where the back end counts them.

    On a terminal of less than `WIDE` columns the stalls are one figure, and operations are left out.
    """
    counted = stats.cycles is not None
    wide = width >= WIDE
    stalls = STALLS if wide else ("stalled",)
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    table.add_column("kind")
    operations = ("MACs", "non-zero") if wide else ()
    for name in (*operations, "events", "density", *(("cycles", "busy", *stalls, "η") if counted else ())):
        table.add_column(name, justify="right", no_wrap=True)

    def row(x: LayerStats) -> list[str]:
        cells = [x.name, x.kind, *((f"{x.macs:,.0f}", f"{x.nonzero_macs:,.0f}") if wide else ())]
        cells += [f"{x.events:,.0f}", f"{x.density:.1%}"]
        if x.cycles is not None and x.causes is not None:
            lost = [x.causes[c] for c in STALLS] if wide else [sum(x.causes[c] for c in STALLS)]
            causes = (x.causes["busy"], *lost)
            cells += [f"{x.cycles:,.0f}", *(f"{c:,.0f}" for c in causes), "" if x.eta is None else f"{x.eta:.3f}"]
        return cells

    for layer in stats.layers:
        table.add_row(*row(layer))
    table.add_section()
    table.add_row(*row(stats.total))
    if not counted:
        table.caption = "The golden model computes values; for cycles use the back end timing or verilator."
    return table
