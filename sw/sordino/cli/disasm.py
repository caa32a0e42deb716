"""`sordino disasm`: what a `.sdn` file holds."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sordino_hw.spec.asm import disassemble

from ..runtime.accelerator import load
from .common import console, friendly


@friendly
def disasm(
    program: Annotated[Path, typer.Argument(metavar="FILE.sdn", help="Compiled network.")],
    tables: Annotated[bool, typer.Option("--tables/--no-tables", help="Print the layer and tensor tables too.")] = True,
) -> None:
    """Print the instructions of a compiled network, and its layer and tensor tables."""
    p = load(program)
    print(f"# {program.name}: {p.meta.get('name', '')} for {p.arch.name} ({p.arch.hash:08x}), {len(p.segments)} segments")
    if tables:
        layers = Table("#", "layer", "kind", "inputs", "output", "MACs", "cores", "source", title="Layers")
        for i, x in enumerate(p.layers):
            layers.add_row(str(i), x.name, x.kind, ", ".join(x.inputs), x.output, f"{x.macs:,}", x.mapping, x.source)
        tensors = Table("tensor", "shape", "scale", "signed", "base", "row pitch", "pixel pitch", title="Tensors")
        for t in p.tensors.values():
            pitches = (str(t.base), str(t.row_pitch), str(t.pixel_pitch))
            tensors.add_row(t.name, " x ".join(map(str, t.shape)), f"{t.scale:.6g}", "yes" if t.signed else "no", *pitches)
        console.print(layers, tensors)
    for i, s in enumerate(p.segments):
        print(
            f"# segment {i}: {len(s.imem)} instructions, {s.weight.shape[1]} weight rows, {len(s.ops)} operations, limit {s.cycle_limit} cycles"
        )
        for address, line in enumerate(disassemble(s.imem)):
            print(f"{address:5d}: {line}")
