"""Resets of the whole machine at random cycles under load: `python benchmarks/resets.py [--count N] [--seed S] [--json FILE]`.

Each reset comes while a program is loaded, runs, or has its results read, or while random rows are written, on a machine that started
from random registers and memories. After it a good program is loaded and run; values, counters and cycles must be the models'
(`tests/resets.py`). The machine is the native simulation of the RTL, four cores of eight lanes.

Ctrl-C ends it early, with the figures so far. Exit code 1 if a program after a reset differs.

Keys of the JSON: `seed`; `count`; `seconds` (processor time); `phases` (resets by phase); `fault` (text, or null).
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from resets import resets


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if args.count < 1 or args.seed < 0:
        parser.error("--count is at least 1, --seed at least 0")
    phases: Counter[str] = Counter()
    fault, start, shown = None, time.process_time(), time.monotonic()
    try:
        for phase in resets(args.seed, args.count):
            phases[phase] += 1
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                print(f"{phases.total()} of {args.count} resets", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    except AssertionError as error:
        fault = str(error)
    seconds = round(time.process_time() - start, 1)
    figures = {
        "seed": args.seed,
        "count": phases.total(),
        "seconds": seconds,
        "phases": dict(sorted(phases.items())),
        "fault": fault,
    }
    print(json.dumps(figures, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main())
