"""Whether penalties weighted with cycles save cycles: pairs of weightings in a study, at equal strength and accuracy.

    sordino study digits-mixed --methods hoyer --strengths 0.3,1 --costs uniform,fanout,cycles --json mixed.json
    python benchmarks/cost_table.py mixed.json

Equal strength: mean and standard deviation over pairs of the same seed and strength. Equal accuracy: means over the
seeds; where the accuracy of one weighting lies between those of the other's strengths, that one's cycles are
interpolated linearly. Strengths that lack a seed are left out.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any


def at_equal_strength(trials: list[dict[str, Any]], method: str, other: str) -> dict[float, tuple[list[float], list[float]]]:
    """By strength: shares of cycles saved by cost "cycles" against `other`, and accuracy gained (test), of each seed."""
    by = {(t["cost"], t["strength"], t["seed"]): t for t in trials if t["method"] == method}
    found: dict[float, tuple[list[float], list[float]]] = {}
    for (cost, strength, seed), t in sorted(by.items()):
        o = by.get((other, strength, seed))
        if cost == "cycles" and o is not None:
            saved, gained = found.setdefault(strength, ([], []))
            saved.append(1 - t["cycles"] / o["cycles"])
            gained.append(t["accuracy"]["integer_test"] - o["accuracy"]["integer_test"])
    return found


def at_equal_accuracy(groups: list[dict[str, Any]], method: str, other: str) -> list[tuple[float, float]]:
    """(accuracy, share of cycles saved) wherever one of the two curves can be read at a point of the other."""
    groups = [g for g in groups if g["method"] == method]
    most = max(g["seeds"] for g in groups)
    ours, theirs = (
        sorted((g["integer_test"]["mean"], g["cycles"]["mean"]) for g in groups if g["cost"] == cost and g["seeds"] == most)
        for cost in ("cycles", other)
    )
    found = [(a, 1 - c / read) for a, c in ours if (read := _read(theirs, a)) is not None]
    found += [(a, 1 - read / c) for a, c in theirs if (read := _read(ours, a)) is not None]
    return sorted(found)


def _read(curve: list[tuple[float, float]], accuracy: float) -> float | None:
    for (a, c), (b, d) in itertools.pairwise(curve):
        if a <= accuracy <= b and a < b:
            return c + (d - c) * (accuracy - a) / (b - a)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, nargs="+", help="what `sordino study --costs uniform,fanout,cycles --json` wrote")
    for path in parser.parse_args().study:
        try:
            document = json.loads(path.read_text())
            trials, groups = document["trials"], document["groups"]
            methods = dict.fromkeys(g["method"] for g in groups if g["cost"] == "cycles")
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"{path}: not the JSON of a study ({type(error).__name__}: {error})")
        if not methods:
            parser.error(f"{path}: no trial with the cost cycles in it; run `sordino study --costs uniform,fanout,cycles`")
        for method in methods:
            for other in ("uniform", "fanout"):
                print(f"{document['settings']['task']}, {method}: cycles against {other}")
                for strength, (saved, gained) in at_equal_strength(trials, method, other).items():
                    sd = f" ± {statistics.stdev(saved):.1%}" if len(saved) > 1 else ""
                    print(
                        f"  strength {strength:g}: {statistics.fmean(saved):.1%}{sd} fewer cycles, "
                        f"accuracy {100 * statistics.fmean(gained):+.1f} points, {len(saved)} seeds"
                    )
                for accuracy, share in at_equal_accuracy(groups, method, other):
                    print(f"  at accuracy {accuracy:.1%}: {share:.1%} fewer cycles")


if __name__ == "__main__":
    main()
