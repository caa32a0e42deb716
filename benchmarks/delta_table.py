"""What a study on clips says about delta inference: events and products against plain frames, as a Markdown table.

    sordino study video --methods star,dal,cats --json video.json
    python benchmarks/delta_table.py video.json

`plain`: every non-zero value that a weighted layer reads is an event. `delta`: those that differ from what was sent last,
a clip's first frame counted in. The factors are against plain frames of the plain ReLU network of the same seed.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any


def spread(values: list[float], text: str = "{:.2f}") -> str:
    """`mean ± sd`."""
    mean = text.format(statistics.fmean(values))
    return mean if len(values) < 2 else f"{mean} ± {text.format(statistics.stdev(values))}"


def table(trials: list[dict[str, Any]]) -> list[str]:
    """Rows of the table, by method, cost and strength. `trials` are those of a study's JSON."""
    base = {t["seed"]: t["delta"] for t in trials if t["method"] == "relu"}
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for t in trials:
        if t["seed"] in base:
            groups.setdefault((t["method"], t["cost"], t["strength"]), []).append(t)
    names: tuple[str, ...] = ("validation, delta", "test, float", "test, frames", "test, delta", "plain events", "delta events")
    names += ("fewer events", "fewer products", "fewer events, later frames")
    rows = [f"| method | cost | strength | seeds | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for (method, cost, strength), members in groups.items():
        delta = [t["delta"] for t in members]
        plain = [base[t["seed"]] for t in members]

        def fewer(name: str, mode: str, delta=delta, plain=plain) -> str:
            ratios = [p[f"plain_{name}"] / d[f"{mode}_{name}"] for p, d in zip(plain, delta, strict=True)]
            return spread(ratios) + " x"

        cells = [
            spread([100 * d["validation"] for d in delta], "{:.1f}"),
            spread([100 * t["accuracy"]["float_test"] for t in members], "{:.1f}"),
            spread([100 * t["accuracy"]["integer_test"] for t in members], "{:.1f}"),
            spread([100 * d["test"] for d in delta], "{:.1f}"),
            spread([d["plain_events"] for d in delta], "{:,.0f}"),
            spread([d["delta_events"] for d in delta], "{:,.0f}"),
            fewer("events", "delta"),
            fewer("products", "delta"),
            fewer("events", "later"),
        ]
        head = (f"`{method}`", *(("", "") if method == "relu" else (cost, f"{strength:g}")), str(len(members)))
        rows.append(f"| {' | '.join((*head, *cells))} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, nargs="+", help="what `sordino study --json` wrote")
    for path in parser.parse_args().study:
        try:
            document = json.loads(path.read_text())
            trials = [t for t in document["trials"] if "delta" in t]
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{path}: not the JSON of a study ({type(error).__name__}: {error})")
        if not trials:
            parser.error(f"{path}: no trial on clips in it; run `sordino study` with the task video or video-moving")
        print(f"{document['settings']['task']}\n")
        print("\n".join(table(trials)), "\n")


if __name__ == "__main__":
    main()
