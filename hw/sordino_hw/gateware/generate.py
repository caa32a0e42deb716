"""Verilog of the accelerator: `python -m sordino_hw.gateware.generate --arch ulx3s-85f -o top.v`."""

import argparse
import json
import re
import sys
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Module, Signal, Value
from amaranth.lib.wiring import Component

from ..spec.arch import PRESETS, ArchConfig, preset
from ..spec.errors import ArchError, InputError, SordinoError
from ..spec.files import replacing

__all__ = ["simulator_verilog", "to_verilog", "top_verilog"]

_INITIAL = re.compile(
    r"^(?P<register> +reg [^=;\n]*)= \d+'[bdh]\w+(?=;$)|^ +initial begin\n(?: +\S+\[\d+\] = \S+;\n)+ +end\n", re.MULTILINE
)
"""In Yosys's Verilog: the initial value of a register, or the initial rows of a memory."""


def to_verilog(component: Component, name: str = "top", reset: bool = True, registered: bool = False) -> str:
    """Verilog of a `wiring.Component`, ports joined by one underscore (`s_axil_awaddr`), plus `clk` and `rst`.

    Without `reset` there is no `rst`: registers start from their initial values, as in an FPGA after configuration.
    With `registered`, `rst` acts a cycle later: a simulation is faster where no logic depends on an input directly.
    """
    m = Module()
    m.domains.sync = sync = ClockDomain(reset_less=not reset)
    m.submodules.accelerator = component
    clocks = {"clk": (sync.clk, None)}
    if reset:
        rst = sync.rst
        if registered:
            m.domains.pin = pin = ClockDomain(reset_less=True)
            pin.clk, rst = sync.clk, Signal(name="rst_pin")
            m.d.pin += sync.rst.eq(rst)
        clocks["rst"] = rst, None
    ports = clocks | {
        "_".join(map(str, path)): (Value.cast(value), None)  # None: a port is an input unless it is driven
        for path, _member, value in component.signature.flatten(component)
    }
    return verilog.convert(m, name=name, ports=ports, strip_internal_attrs=True)


def top_verilog(arch: ArchConfig, reset: bool = True) -> str:
    """Verilog of `Top(arch)`: ports `clk`, `rst` (see `to_verilog`) and `s_axil_*` (AXI4-Lite, 32 data bits)."""
    from .top import Top

    return to_verilog(Top(arch), reset=reset)


def simulator_verilog(arch: ArchConfig) -> str:
    """Verilog of `Top(arch)` for the native simulator: the same ports, `rst` through a register, and no initial values of registers
    and memories, so that the simulator chooses them."""
    from .top import Top

    return _INITIAL.sub(lambda found: found["register"] or "", to_verilog(Top(arch), registered=True))


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
    parser.add_argument(
        "--simulator", action="store_true", help="rst through a register, and no initial values: the simulator chooses them"
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    args = parser.parse_args(argv)
    if args.no_reset and args.simulator:
        parser.error("--simulator needs the reset, which --no-reset leaves out")
    try:
        arch = _architecture(args.arch)
        text = simulator_verilog(arch) if args.simulator else top_verilog(arch, reset=not args.no_reset)
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
