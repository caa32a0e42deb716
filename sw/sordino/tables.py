"""Tables of figures for the terminal."""

from rich.table import Table

from .statistics import LayerStats, Stats

__all__ = ["stats_table"]

STALLS = ("fetch", "ppu", "marker", "idle")


def stats_table(stats: Stats, title: str) -> Table:
    """Per layer and in all, means of an image. Cycles and η only where the back end counts them."""
    counted = stats.cycles is not None
    table = Table(title=title)
    table.add_column("layer")
    table.add_column("kind")
    for name in ("MACs", "non-zero", "events", "density", *(("cycles", "busy", *STALLS, "η") if counted else ())):
        table.add_column(name, justify="right")

    def row(x: LayerStats) -> list[str]:
        cells = [x.name, x.kind, f"{x.macs:,.0f}", f"{x.nonzero_macs:,.0f}", f"{x.events:,.0f}", f"{x.density:.1%}"]
        if x.cycles is not None and x.causes is not None:
            causes = (x.causes[c] for c in ("busy", *STALLS))
            cells += [f"{x.cycles:,.0f}", *(f"{c:,.0f}" for c in causes), "" if x.eta is None else f"{x.eta:.3f}"]
        return cells

    for layer in stats.layers:
        table.add_row(*row(layer))
    table.add_section()
    table.add_row(*row(stats.total))
    if not counted:
        table.caption = "The golden model computes values; for cycles use the back end timing or verilator."
    return table
