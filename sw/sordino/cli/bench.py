"""`sordino bench`: utilisation of a layer, speed of the simulators."""

from typing import Annotated

import typer
from rich.table import Table

from sordino_hw.arch import preset
from sordino_hw.errors import InputError

from ..benchmark import LayerShape, bench_layer, bench_sim
from .common import ArchOption, JsonOption, SeedOption, console, friendly, progress_bar, save_json

app = typer.Typer(help="Benchmarks of the array and of the simulators.", no_args_is_help=True)


@app.command("layer")
@friendly
def layer(
    cin: Annotated[int, typer.Option(help="Input channels.")] = 64,
    cout: Annotated[int, typer.Option(help="Output channels.")] = 64,
    kernel: Annotated[int, typer.Option(help="Kernel size.")] = 3,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 14,
    stride: Annotated[int, typer.Option(help="Stride.")] = 1,
    densities: Annotated[str, typer.Option("--densities", "-d", help="Activation densities, comma-separated.")] = "1,0.5,0.2,0",
    backend: Annotated[
        str, typer.Option("--backend", help="verilator (the RTL, checked against the models) or timing.")
    ] = "verilator",
    arch: ArchOption = "ulx3s-85f",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Cycles and utilisation of one convolution at several activation densities, random weights and activations."""
    try:
        wanted = tuple(float(d) for d in densities.split(","))
    except ValueError:
        raise InputError(f"--densities {densities}: give numbers from 0 to 1, such as 1,0.5,0.2,0.") from None
    shape, target = LayerShape(cin, cout, kernel, size, stride), preset(arch)
    with progress_bar() as bar:
        bar.add_task("running the layer", total=None, note="")
        figures = bench_layer(shape, target, wanted, backend, seed)
    table = Table(
        title=f"{shape} on {target.name}, {target.lanes} lanes, {backend}; dense mode {figures['dense_cycles']:,.0f} cycles"
    )
    for name in ("density", "cycles", "of dense", "events", "non-zero MACs", "η"):
        table.add_column(name, justify="right")
    for r in figures["rows"]:
        eta = f"{r['eta']:.3f}" if r["nonzero_macs"] else "-"
        table.add_row(
            f"{r['density']:g}",
            f"{r['cycles']:,.0f}",
            f"{r['of_dense']:.2%}",
            f"{r['events']:,.0f}",
            f"{r['nonzero_macs']:,.0f}",
            eta,
        )
    console.print(table)
    save_json(json, "bench layer", figures)


@app.command("sim")
@friendly
def sim(
    images: Annotated[int, typer.Option("--images", "-n", min=1, max=450, help="Images for the models.")] = 450,
    arch: ArchOption = "ulx3s-85f",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Simulated cycles a second of the RTL, images a second of the models."""
    target = preset(arch)
    with progress_bar() as bar:
        bar.add_task("running the simulators", total=None, note="")
        figures = bench_sim(target, images, seed)
    table = Table("simulator", "speed", title=f"Simulators, {target.name}")
    table.add_row("verilator (RTL)", f"{figures['verilator_cycles_per_second'] / 1e6:.2f} million cycles a second")
    table.add_row("golden model", f"{figures['golden_images_per_second']:,.0f} digit images a second")
    table.add_row("timing model", f"{figures['timing_images_per_second']:,.0f} digit images a second")
    console.print(table)
    save_json(json, "bench sim", figures)
