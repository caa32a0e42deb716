"""Verilog of the accelerator: `python -m sordino_hw.gateware.generate --arch ulx3s-85f -o top.v`."""

import argparse
import json
import sys
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Module, Value
from amaranth.lib.wiring import Component

from ..spec.arch import PRESETS, ArchConfig, preset
from ..spec.errors import ArchError, InputError, SordinoError
from ..spec.files import replacing

__all__ = ["to_verilog", "top_verilog"]


def to_verilog(component: Component, name: str = "top", reset: bool = True) -> str:
    """Verilog of a `wiring.Component`, ports joined by one underscore (`s_axil_awaddr`), plus `clk` and `rst`.

    Without `reset` there is no `rst`: registers start from their initial values, as in an FPGA after configuration.
    A simulation is faster so, because no logic depends on an input directly.
    """
    m = Module()
    m.domains.sync = sync = ClockDomain(reset_less=not reset)
    m.submodules.accelerator = component
    clocks = {"clk": (sync.clk, None)} | ({"rst": (sync.rst, None)} if reset else {})
    ports = clocks | {
        "_".join(map(str, path)): (Value.cast(value), None)  # None: a port is an input unless it is driven
        for path, _member, value in component.signature.flatten(component)
    }
    return verilog.convert(m, name=name, ports=ports, strip_internal_attrs=True)


def top_verilog(arch: ArchConfig, reset: bool = True) -> str:
    """Verilog of `Top(arch)`: ports `clk`, `rst` (see `to_verilog`) and `s_axil_*` (AXI4-Lite, 32 data bits)."""
    from .top import Top

    return to_verilog(Top(arch), reset=reset)


def _architecture(text: str) -> ArchConfig:
    if not text.startswith("{"):
        return preset(text)
    try:
        return ArchConfig.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ArchError(f"--arch {text!r} is not a JSON object ({error})") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sordino_hw.gateware.generate", description="Writes the accelerator as Verilog."
    )
    parser.add_argument(
        "--arch",
        default="ulx3s-85f",
        help=f"architecture: {', '.join(PRESETS)} (default: %(default)s), or a JSON object with every field of an ArchConfig",
    )
    parser.add_argument("--no-reset", action="store_true", help="no rst: registers start from their initial values")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    args = parser.parse_args(argv)
    try:
        text = top_verilog(_architecture(args.arch), reset=not args.no_reset)
        if args.output is None:
            print(text)
        else:
            with replacing(args.output, InputError) as temporary:
                temporary.write_text(text)
    except SordinoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
