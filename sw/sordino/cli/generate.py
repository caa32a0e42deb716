"""`sordino generate`: the accelerator as Verilog."""

from pathlib import Path

import click

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from .common import OUTPUT, arch_option, check_folder, console


@click.command(short_help="Write the accelerator as Verilog.")
@arch_option
@click.option("--output", "-o", type=OUTPUT, help="File to write. [default: standard output]")
@click.option(
    "--reset/--no-reset", default=True, show_default=True, help="Without: no rst, registers start from their initial values."
)
def generate(arch: ArchConfig, output: Path | None, reset: bool) -> None:
    """Write the accelerator as Verilog: ports clk, rst and s_axil_* (AXI4-Lite, 32 data bits)."""
    check_folder(output)
    from sordino_hw.gateware.generate import top_verilog
    from sordino_hw.spec.files import replacing

    text = top_verilog(arch, reset)
    if output is None:
        print(text)
        return
    with replacing(output, InputError) as temporary:
        temporary.write_text(text, encoding="utf-8")
    console().print(f"Verilog: {output} ({arch.name}, {text.count(chr(10)):,} lines)", markup=False)
