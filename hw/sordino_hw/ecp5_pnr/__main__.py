"""The command: places and routes a netlist that nextpnr packed, and writes it for nextpnr to check."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..spec.errors import SordinoError, ToolError
from .chip import SPEEDS, Chip
from .databases import SIZES, chip_database
from .netlist import Packed
from .run import place_and_route


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sordino_hw.ecp5_pnr",
        description="Place and route for the ECP5: takes what nextpnr-ecp5 writes with --pack-only --write, and writes it with a bel for every cell and "
        "routes for all nets but the clocks', for nextpnr-ecp5 --no-pack --no-place to check, time and finish.",
    )
    parser.add_argument("packed", type=Path, help="the packed netlist, JSON")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the netlist to write, JSON")
    parser.add_argument("--size", type=int, choices=SIZES, required=True, help="thousands of LUTs of the device")
    parser.add_argument("--speed", type=int, choices=SPEEDS, default=SPEEDS[0], help="speed grade (%(default)s)")
    parser.add_argument("--freq", type=_frequency, default=100.0, metavar="MHZ", help="what all clocks are to reach (%(default)g)")
    parser.add_argument(
        "--clock", type=_clock, action="append", default=[], metavar="NAME=MHZ", help="what one clock is to reach; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed, another result (%(default)s)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return parser


def _frequency(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no frequency in MHz")
    return value


def _clock(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    try:
        if equals and name:
            return name, 1e3 / _frequency(value)
    except (ValueError, argparse.ArgumentTypeError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MHZ, such as clk=100")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after an error, which is one paragraph."""
    args = _parser().parse_args(arguments)
    try:
        if args.seed < 0:
            raise ToolError(f"--seed {args.seed}: give an integer from 0 on.")
        packed = Packed.read(args.packed)
        progress = None if args.quiet else lambda note: print(note, file=sys.stderr)
        result = place_and_route(
            packed, Chip.read(chip_database(args.size)), args.speed, 1e3 / args.freq, dict(args.clock), args.seed, progress=progress
        )
        # nextpnr's first router leaves alone what is routed, and reports what is not.
        packed.write(args.output, result.bels, result.routes, {"router": "router1"})
    except SordinoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, longest in result.longest.items():
        print(f"{name}: {1e3 / longest:.1f} MHz" if longest else f"{name}: no path between registers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
