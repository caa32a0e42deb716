"""`sordino disasm`: what a `.sdn` file holds."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import INPUT, console

if TYPE_CHECKING:
    from sordino_hw.spec.program import Program


@click.command(short_help="Print the instructions of a compiled network.")
@click.argument("program", metavar="FILE.sdn", type=INPUT)
@click.option("--tables/--no-tables", default=True, show_default=True, help="Print the layer and tensor tables too.")
def disasm(program: Path, tables: bool) -> None:
    """Print the instructions of a compiled network, and its layer and tensor tables."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing is multiplied here, and NumPy's threads cost a third of the time
    from sordino_hw.spec.asm import disassemble
    from sordino_hw.spec.program import Program
    from sordino_hw.spec.text import printable

    p = Program.load(program)
    title = f"{program.name}: {p.meta.get('name', '')} for {p.arch.name}"
    print(f"# {printable(title)} ({p.arch.hash:08x}), {len(p.segments)} segments")
    if p.meta.get("random_weights"):
        print("# the weights are random: compiled with --random-weights")
    if tables:
        _print_tables(p)
    _print_host(p)
    for i, s in enumerate(p.segments):
        print(
            f"# segment {i}: {len(s.imem)} instructions, {s.weight.shape[1]} weight rows, {len(s.ops)} operations, "
            f"limit {s.cycle_limit} cycles"
        )
        for address, line in enumerate(disassemble(s.imem)):
            print(f"{address:5d}: {line}")


def _print_host(p: "Program") -> None:
    """The host's steps, with the kind of each result and its element operations, and what is returned."""
    from sordino_hw.spec.host import step_work
    from sordino_hw.spec.text import printable

    host = p.host
    if host is None:
        return
    kinds = p.host_kinds()
    for side, steps in (("before", host.before), ("after", host.after)):
        print(
            f"# host, {side} the array: {len(steps)} steps, {sum(step_work(s, kinds) for s in steps):,} element operations an image"
        )
        for i, s in enumerate(steps):
            results = ", ".join(str(kinds[n]) for n in s.outputs)
            print(f"{i:5d}: {printable(f'{s} -> {results}; {step_work(s, kinds):,} operations; {s.source}', 400)}")
    print(f"# returned: {printable(host.returned(), 400)}")


def _print_tables(p: "Program") -> None:

    from ..table import Table

    layers = Table(title="Layers")
    for column in ("#", "layer", "kind", "inputs", "output", "MACs", "cores", "source"):
        layers.add_column(column, overflow="fold", min_width=min(len(column), 8))
    for i, x in enumerate(p.layers):
        cells = (str(i), x.name, x.kind, ", ".join(x.inputs), x.output, f"{x.macs:,}", x.mapping, x.source)
        layers.add_row(*cells)
    tensors = Table("tensor", "shape", "scale", "signed", "base", "row pitch", "pixel pitch", title="Tensors")
    for t in p.tensors.values():
        pitches = (str(t.base), str(t.row_pitch), str(t.pixel_pitch))
        tensors.add_row(t.name, " x ".join(map(str, t.shape)), f"{t.scale:.6g}", "yes" if t.signed else "no", *pitches)
    console().print(layers, tensors)
