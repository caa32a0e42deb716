"""`sordino bench`: utilisation of layers and of networks, speed of the simulators, speed and size in an FPGA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sordino_hw.fpga import DEVICES, device_of
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import InputError

from ..experiments.fpga_bench import bench_fpga, parse_seeds
from ..experiments.layer_bench import DENSITIES, LayerShape, bench_layer, bench_sim, bench_suite, roomy
from ..experiments.network_bench import bench_network
from ..experiments.workloads import load_workload
from .common import ArchOption, JsonOption, SeedOption, console, friendly, progress_bar, save_json

SLOW_GROUPS = 12
"""Groups of slow endpoints that are printed; the JSON file has them all."""

app = typer.Typer(help="Benchmarks of the array and of the simulators.", no_args_is_help=True)


@contextmanager
def _layers() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar over layers, as a function to call with (done, all, name)."""
    with progress_bar() as bar:
        task = bar.add_task("running the layers", total=None, note="")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, note=name)


@app.command("layer")
@friendly
def layer(
    cin: Annotated[int, typer.Option(help="Input channels.")] = 64,
    cout: Annotated[int, typer.Option(help="Output channels.")] = 64,
    kernel: Annotated[int, typer.Option(help="Kernel size.")] = 3,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 14,
    stride: Annotated[int, typer.Option(help="Stride.")] = 1,
    suite: Annotated[bool, typer.Option("--suite", help="All layer types of the workloads, instead of the one described.")] = False,
    densities: Annotated[
        str | None,
        typer.Option("--densities", "-d", help="Activation densities, comma-separated. [default: 1,0.5,0.2,0; the suite's]"),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="verilator (the RTL, checked against the models) or timing.")
    ] = "verilator",
    own: Annotated[
        bool, typer.Option("--own-memories", help="The suite in the architecture's own memories: smaller layers, and tiles.")
    ] = False,
    arch: ArchOption = "ulx3s-85f",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Cycles and utilisation of one convolution at several activation densities, random weights and activations."""
    try:
        wanted = (DENSITIES if suite else (1.0, 0.5, 0.2, 0.0)) if densities is None else tuple(map(float, densities.split(",")))
    except ValueError:
        raise InputError(f"--densities {densities}: give numbers from 0 to 1, such as 1,0.5,0.2,0.") from None
    target = preset(arch)
    if suite:
        _suite(target if own else roomy(target), wanted, backend, seed, json)
        return
    shape = LayerShape(cin, cout, kernel, size, stride)
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


def _suite(target: ArchConfig, densities: tuple[float, ...], backend: str, seed: int, json: Path | None) -> None:
    with _layers() as progress:
        figures = bench_suite(target, densities, backend, seed, progress=progress)
    table = Table(title=f"η by activation density on {target.name}, {target.cores} x {target.lanes} multipliers, {backend}")
    for name in ("layer", "shape", "size", *(f"{d:g}" for d in densities)):
        table.add_column(name, justify="left" if name in ("layer", "shape") else "right")
    for x in figures["layers"]:
        shape = x["shape"]
        etas = [f"{r['eta']:.3f}" if r["nonzero_macs"] else f"{r['of_dense']:.2%} of dense" for r in x["rows"]]
        kernel = f"{shape['kernel']}x{shape['kernel']}, {shape['cin']} -> {shape['cout']}, stride {shape['stride']}"
        table.add_row(x["name"], kernel, str(shape["size"]), *etas)
    console.print(table)
    save_json(json, "bench layer", figures)


@app.command("network")
@friendly
def network(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Workload, such as those in benchmarks/workloads.")],
    rtl: Annotated[bool, typer.Option("--rtl", help="Run the layers that fit the architecture on the RTL too (minutes).")] = False,
    arch: ArchOption = "ulx3s-85f",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Cycles and utilisation of a network, zeros drawn at each layer's density: timing model, ideal memory."""
    target, workload = preset(arch), load_workload(file)
    with _layers() as progress:
        figures = bench_network(workload, target, seed, rtl, progress)
    table = Table(title=f"{workload.name} on {target.name}, {target.cores} x {target.lanes} multipliers, ideal memory")
    for name in ("layer", "density", "cycles", "dense cycles", "η", *(("RTL cycles", "RTL η") if rtl else ())):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for r in figures["layers"]:
        table.add_row(*_network_row(r, rtl))
    table.add_section()
    table.add_row("total", "", f"{figures['cycles']:,}", f"{figures['dense_cycles']:,}", f"{figures['eta']:.4f}")
    console.print(table)
    console.print(f"{figures['speedup']:.2f} times as fast as in dense mode; {figures['seconds']:.1f} s.")
    save_json(json, "bench network", figures)


def _network_row(r: dict[str, Any], rtl: bool) -> list[str]:
    name = r["name"] + (f" + {r['added']}" if r["added"] else "")
    cells = [name, f"{r['density']:.3f}", f"{r['cycles']:,}", f"{r['dense_cycles']:,}", f"{r['eta']:.4f}" if r["macs"] else "-"]
    if rtl:
        measured = r["rtl"]
        cells += [f"{measured['cycles']:,}", f"{measured['eta']:.4f}" if r["macs"] else "-"] if measured else ["does not fit", ""]
    return cells


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


@app.command("fpga")
@friendly
def fpga(
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of place and route, comma-separated.")] = "1,2,3,4,5",
    device: Annotated[
        str | None, typer.Option("--device", help=f"FPGA of another preset's board: {', '.join(DEVICES)}. [default: the preset's]")
    ] = None,
    limit: Annotated[float, typer.Option("--limit", min=1, help="Minutes that place and route of a seed may take.")] = 180,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", min=1, max=256, help="Seeds at a time: each takes a core, and up to 4 GB for the largest device."
        ),
    ] = 1,
    arch: ArchOption = "ulx3s-85f",
    json: JsonOption = None,
) -> None:
    """Clock frequency and size in an FPGA, by Yosys, the flow's own placer and router for the ECP5, and nextpnr: some minutes for the
    synthesis, and for each seed.

    What was measured once is kept, as long as neither the gateware nor the flow nor the tools change.
    """
    target, wanted = preset(arch), parse_seeds(seeds)
    chosen = device_of(target, device)
    with progress_bar() as bar:
        task = bar.add_task("building", total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        figures = bench_fpga(target, chosen, wanted, report, limit * 60, jobs)
    table = Table(title=f"{target.name} on {figures['device']}, nextpnr towards {figures['target_mhz']:g} MHz")
    for name in ("seed", "Fmax, MHz", "slowest path", "logic, ns", "routing, ns"):
        table.add_column(name, justify="left" if name == "slowest path" else "right")
    for run in figures["runs"]:
        path = run["critical_path"]
        where = f"{path['source']} to {path['sink']}, {path['cells']} cells"
        table.add_row(str(run["seed"]), f"{run['fmax_mhz']:.1f}", where, f"{path['logic_ns']:.1f}", f"{path['routing_ns']:.1f}")
    console.print(table)
    slow = Table(title=f"Slowest endpoints, seed {figures['runs'][0]['seed']}")
    for name in ("ns", "endpoints", "sink", "driven by"):
        slow.add_column(name, justify="right" if name in ("ns", "endpoints") else "left")
    for group in figures["runs"][0]["slow"][:SLOW_GROUPS]:
        slow.add_row(f"{group['delay']:.1f}", str(group["endpoints"]), group["sink"], group["source"])
    console.print(slow)
    console.print(f"Fmax: median {figures['fmax_median_mhz']:.1f} MHz, worst {figures['fmax_worst_mhz']:.1f} MHz.")
    use = (f"{name} {n:,} of {figures['available'][name]:,} ({figures['share'][name]:.1%})" for name, n in figures["used"].items())
    console.print(f"Used: {', '.join(use)}.")
    console.print(f"Tools: {', '.join(figures['tools'].values())}.")
    save_json(json, "bench fpga", figures)
