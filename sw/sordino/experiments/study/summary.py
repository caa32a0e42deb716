"""Results of a study: for each method the strength chosen on validation data, with its figures on test data."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ...table import Table
from .store import Store

__all__ = ["figures", "summary_table"]

MEASURES = ("integer_test", "float_test", "density", "nonzero", "events", "cycles")


def figures(store: Store) -> dict[str, Any]:
    """Everything as JSON values; keys in docs/how-to/compare-methods.md."""
    records, progress = store.records(), store.progress()
    return {
        "name": store.name,
        "settings": store.settings.to_dict(),
        "trials": records,
        "failed": [{**vars(p), "error": error} for p, error in progress.failed.items()],
        "pending": progress.total - progress.done,
        "groups": (groups := group(records)),
        "rows": rows(groups, store.settings.budget),
    }


def group(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds of each (method, cost, strength)."""
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for r in records:
        found.setdefault((r["method"], r["cost"], r["strength"]), []).append(r)
    made = []
    for (method, cost, strength), members in found.items():
        flat = [{**m, **m["accuracy"]} for m in members]
        row: dict[str, Any] = {"method": method, "cost": cost, "strength": strength, "seeds": len(members)}
        for name in (*MEASURES, "integer_validation", *(("changes",) if "changes" in flat[0] else ())):
            values = [f[name] for f in flat]
            row[name] = {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
        made.append(row)
    return made


def rows(groups: Sequence[dict[str, Any]], budget: float) -> list[dict[str, Any]]:
    """One row per (method, cost): of the strengths within the budget on validation data the one with the fewest cycles.

    If none is, the most accurate one, with `within_budget` false. `removed` and `fewer_cycles` are against plain ReLU.
    """
    plain = next((g for g in groups if g["method"] == "relu"), None)
    if plain is None:
        return []
    floor = plain["integer_validation"]["mean"] - budget
    found = []
    for key in dict.fromkeys((g["method"], g["cost"]) for g in groups):
        candidates = [g for g in groups if (g["method"], g["cost"]) == key]
        good = [g for g in candidates if g["integer_validation"]["mean"] >= floor - 1e-12]
        chosen = (
            min(good, key=lambda g: g["cycles"]["mean"]) if good else max(candidates, key=lambda g: g["integer_validation"]["mean"])
        )
        found.append(
            {
                **chosen,
                "within_budget": bool(good),
                "removed": 1 - chosen["nonzero"]["mean"] / plain["nonzero"]["mean"],
                "fewer_cycles": 1 - chosen["cycles"]["mean"] / plain["cycles"]["mean"],
            }
        )
    return found


def summary_table(figures: Mapping[str, Any]) -> Table:
    """The rows, for the terminal."""
    s = figures["settings"]
    table = Table(title=f"{s['task']} on {s['arch']}: at most {s['budget']:.1%} of validation accuracy lost; test data, mean ± sd")
    table.add_column("method", no_wrap=True)
    table.add_column("cost", no_wrap=True)
    clips = any("changes" in r for r in figures["rows"])
    for name in ("strength", "seeds", "accuracy", "float", "density", "removed", "cycles", "fewer cycles", *(["changes"] * clips)):
        table.add_column(name, justify="right")
    for r in figures["rows"]:
        table.add_row(
            r["method"] + ("" if r["within_budget"] else " *"),
            r["cost"] if r["method"] != "relu" else "",
            f"{r['strength']:g}" if r["method"] != "relu" else "",
            str(r["seeds"]),
            spread(r["integer_test"], "{:.1f}", 100),
            spread(r["float_test"], "{:.1f}", 100),
            spread(r["density"], "{:.1f}", 100),
            f"{r['removed']:.0%}",
            spread(r["cycles"], "{:,.0f}"),
            f"{r['fewer_cycles']:.0%}",
            *([spread(r["changes"], "{:,.0f}")] if clips else []),
        )
    if any(not r["within_budget"] for r in figures["rows"]):
        table.caption = "* loses more accuracy on validation data at every strength; its most accurate one is shown"
    return table


def spread(value: Mapping[str, float | None], text: str, factor: float = 1.0) -> str:
    """`mean ± sd`."""
    mean, sd = value["mean"], value["sd"]
    assert mean is not None
    return text.format(mean * factor) + ("" if sd is None else " ± " + text.format(sd * factor))
