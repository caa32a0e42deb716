"""Mutated `.sdn` files on their way through everything: `python benchmarks/fuzz.py [--count N] [--rtl N] [--seed S] [--json FILE]`.

Each file has one to three structure-aware mutations (`tests/mutations.py`), its checksums right. It is loaded and verified,
disassembled, run by the golden and the timing model, and a share of those that run is made into a report page. With `--rtl`, so many
files go through the RTL as well: values and counters are equal, or models and RTL both refuse. Set `NUMBA_BOUNDSCHECK=1`, and
`NUMBA_CACHE_DIR` to an empty folder, to have every index of the compiled loops checked.

Ctrl-C ends it early, with the figures so far. Exit code 1 if anything but a refusal in words came out, if a file took longer than
the budget, or if RTL and models differ.

Keys of the JSON: `seed`; `count`; `seconds` (processor time); `stages` (how many files ended where: refused at load, by the budget,
while they ran, or not at all); `slowest` (seconds); `rtl` (`equal`, `both refuse`); `boundscheck`; `faults` (list of `number`, `error`).
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from mutations import MUTATIONS, SECONDS, Corpus, against_rtl, change_arch, journey
from random_layers import ARCHS


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="files through the models")
    parser.add_argument("--rtl", type=int, default=0, help="files through the RTL as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that show a fault")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many minutes of processor time")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    stages: Counter[str] = Counter()
    rtl: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    slowest, done, start = 0.0, 0, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder))
        journey(*corpus.mutated(np.random.default_rng(0)))  # compiles what numba compiles
        for number in range(args.count + args.rtl):
            if time.process_time() - start > 60 * args.minutes:
                break
            rng = np.random.default_rng([args.seed, number])
            path = Path(folder)
            try:
                if number < args.count:
                    path, inputs = corpus.mutated(rng)
                    outcome = journey(path, inputs, page=number % 50 == 0)
                    stages[outcome.stage] += 1
                    slowest = max(slowest, outcome.seconds)
                    assert outcome.seconds < SECONDS or number == 0, f"it took {outcome.seconds:.1f} s"
                else:
                    if number == args.count:  # architectures whose simulators are few
                        corpus = Corpus(Path(folder), 8, (ARCHS[4],))
                    path, inputs = corpus.mutated(rng, [m for m in MUTATIONS if m is not change_arch])
                    rtl[against_rtl(path, inputs)] += 1
            except KeyboardInterrupt:
                break
            except Exception:
                faults.append({"number": number, "error": traceback.format_exc()})
                print(f"file {number} of seed {args.seed}:\n{faults[-1]['error']}", flush=True)
                if args.keep is not None and path.is_file():
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}-{number}.sdn").write_bytes(path.read_bytes())
            done = number + 1
    figures = {
        "seed": args.seed,
        "count": min(done, args.count),
        "seconds": round(time.process_time() - start, 1),
        "stages": dict(sorted(stages.items())),
        "slowest": round(slowest, 2),
        "rtl": dict(sorted(rtl.items())),
        "boundscheck": bool(int(os.environ.get("NUMBA_BOUNDSCHECK", "0"))),
        "faults": faults,
    }
    print(json.dumps({**figures, "faults": len(faults)}, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
