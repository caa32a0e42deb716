"""`sordino bench`: utilisation of layers and of networks, speed of the simulators, speed and size in an FPGA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sordino_hw.spec.arch import ArchConfig

from .common import (
    INPUT,
    Names,
    Numbers,
    arch_option,
    check_folder,
    clock_option,
    console,
    json_option,
    progress_bar,
    save_json,
    seed_option,
)
from .names import DEVICES

SLOW_GROUPS = 12
"""Groups of slow endpoints that are printed; the JSON file has them all."""


@click.group()
def bench() -> None:
    """Benchmarks of the array and of the simulators."""


@contextmanager
def _layers() -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar over layers, as a function to call with (done, all, name)."""
    with progress_bar() as bar:
        task = bar.add_task("running the layers", total=None, note="")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, note=name)


@bench.command(short_help="One convolution, or all layer types, at several densities.")
@click.option("--cin", type=int, default=64, show_default=True, help="Input channels.")
@click.option("--cout", type=int, default=64, show_default=True, help="Output channels.")
@click.option("--kernel", type=int, default=3, show_default=True, help="Kernel size.")
@click.option("--size", type=int, help="Height and width of the input. [default: 14, or the largest below that fits]")
@click.option("--stride", type=int, default=1, show_default=True, help="Stride.")
@click.option("--suite", is_flag=True, help="All layer types of the workloads, instead of the one described.")
@click.option(
    "--densities",
    "-d",
    type=Numbers(float, "1,0.5,0.2,0"),
    help="Activation densities, comma-separated. [default: 1,0.5,0.2,0; the suite's own]",
)
@click.option(
    "--backend",
    type=click.Choice(["verilator", "timing"]),
    default="verilator",
    show_default=True,
    help="verilator: the RTL, checked against the models; timing: the timing model alone.",
)
@click.option(
    "--own-memories", "own", is_flag=True, help="The suite in the architecture's own memories: smaller layers, and tiles."
)
@arch_option
@clock_option
@seed_option
@json_option
def layer(
    cin: int,
    cout: int,
    kernel: int,
    size: int | None,
    stride: int,
    suite: bool,
    densities: tuple[float, ...] | None,
    backend: str,
    own: bool,
    arch: ArchConfig,
    clock: float | None,
    seed: int,
    json: str | None,
) -> None:
    """Cycles, time and utilisation of one convolution at several activation densities, random weights and activations."""
    check_folder(json)
    from ..experiments.layer_bench import DENSITIES, LayerShape, bench_layer, largest_shape, roomy
    from ..table import Table

    wanted = densities or (DENSITIES if suite else (1.0, 0.5, 0.2, 0.0))
    if suite:
        _suite(arch if own else roomy(arch), wanted, backend, seed, _mhz(arch, clock), json)
        return
    shape = LayerShape(cin, cout, kernel, size or 14, stride)
    if size is None:
        shape = largest_shape(shape, arch)
    with progress_bar() as bar:
        bar.add_task("running the layer", total=None, note="")
        figures = bench_layer(shape, arch, wanted, backend, seed)
    table = Table(
        title=f"{shape} on {arch.name}, {arch.cores} x {arch.lanes} multipliers, {backend}; dense mode {figures['dense_cycles']:,.0f} cycles"
    )
    mhz = _mhz(arch, clock)
    for name in ("density", "cycles", *(("µs, compute only",) if mhz else ()), "of dense", "events", "non-zero MACs", "η"):
        table.add_column(name, justify="right")
    for r in figures["rows"]:
        eta = f"{r['eta']:.3f}" if r["nonzero_macs"] else "-"
        table.add_row(
            f"{r['density']:g}",
            f"{r['cycles']:,.0f}",
            *((f"{r['cycles'] / mhz:,.1f}",) if mhz else ()),
            f"{r['of_dense']:.2%}",
            f"{r['events']:,.0f}",
            f"{r['nonzero_macs']:,.0f}",
            eta,
        )
    console().print(table)
    save_json(json, "bench layer", {**figures, "clock_mhz": mhz})


def _mhz(arch: ArchConfig, clock: float | None) -> float | None:
    from ..runtime.speed import clock_of

    found = clock_of(arch, clock)
    return None if found is None else found.mhz


def _suite(target: ArchConfig, densities: tuple[float, ...], backend: str, seed: int, mhz: float | None, json: str | None) -> None:
    from ..experiments.layer_bench import bench_suite
    from ..table import Table

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
    console().print(table)
    save_json(json, "bench layer", {**figures, "clock_mhz": mhz})


@bench.command(short_help="A whole network, by the timing model.")
@click.argument("file", metavar="FILE", type=INPUT)
@click.option("--rtl", is_flag=True, help="Run the layers that fit the architecture on the RTL too (minutes).")
@arch_option
@clock_option
@seed_option
@json_option
def network(file: Path, rtl: bool, arch: ArchConfig, clock: float | None, seed: int, json: str | None) -> None:
    """Cycles, time and utilisation of a network, zeros drawn at each layer's density: timing model, ideal memory.

    FILE is a workload, such as those in benchmarks/workloads.
    """
    check_folder(json)
    from ..experiments.network_bench import bench_network
    from ..experiments.workloads import load_workload
    from ..table import Table

    workload = load_workload(file)
    with _layers() as progress:
        figures = bench_network(workload, arch, seed, rtl, progress)
    table = Table(title=f"{workload.name} on {arch.name}, {arch.cores} x {arch.lanes} multipliers, ideal memory")
    for name in ("layer", "density", "cycles", "dense cycles", "η", *(("RTL cycles", "RTL η") if rtl else ())):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for r in figures["layers"]:
        table.add_row(*_network_row(r, rtl))
    table.add_section()
    table.add_row("total", "", f"{figures['cycles']:,}", f"{figures['dense_cycles']:,}", f"{figures['eta']:.4f}")
    console().print(table)
    console().print(f"{figures['speedup']:.2f} times as fast as in dense mode; {figures['seconds']:.1f} s of simulation.")
    if mhz := _mhz(arch, clock):
        ms = figures["cycles"] / mhz / 1e3
        console().print(
            f"At {mhz:g} MHz, compute only: {ms:,.2f} ms an image, {1e3 / ms:,.1f} frames/s. Loading weights and moving activations is not counted."
        )
    save_json(json, "bench network", {**figures, "clock_mhz": mhz})


def _network_row(r: dict[str, Any], rtl: bool) -> list[str]:
    name = r["name"] + (f" + {r['added']}" if r["added"] else "")
    cells = [name, f"{r['density']:.3f}", f"{r['cycles']:,}", f"{r['dense_cycles']:,}", f"{r['eta']:.4f}" if r["macs"] else "-"]
    if rtl:
        measured = r["rtl"]
        cells += [f"{measured['cycles']:,}", f"{measured['eta']:.4f}" if r["macs"] else "-"] if measured else ["does not fit", ""]
    return cells


@bench.command(short_help="MLPerf Tiny's four networks, beside published latencies.")
@click.option(
    "--networks",
    type=Names(("kws", "vww", "ic", "ad")),
    default="kws,vww,ic,ad",
    show_default=True,
    help="Networks, comma-separated.",
)
@click.option(
    "--densities",
    "-d",
    type=Numbers(float, "1,0.45,0.15"),
    help="Densities of the output of every ReLU, comma-separated. [default: 1,0.45,0.15]",
)
@click.option("--rtl", is_flag=True, help="Run those that fit the architecture on the RTL too, and compare the cycles (minutes).")
@arch_option
@clock_option
@seed_option
@json_option
def tiny(
    networks: str,
    densities: tuple[float, ...] | None,
    rtl: bool,
    arch: ArchConfig,
    clock: float | None,
    seed: int,
    json: str | None,
) -> None:
    """Latency of MLPerf Tiny's networks at several activation densities, with random weights: the accuracy is not measured.

    The time is that of the array. Loading weights and moving activations is not counted. A network that does not fit the
    architecture's memories runs with deeper ones, by the timing model alone.
    """
    check_folder(json)
    from ..experiments.tiny_bench import DENSITIES, bench_tiny

    with _layers() as progress:
        figures = bench_tiny(arch, tuple(networks.split(",")), densities or DENSITIES, seed, rtl, clock, progress)
    _print_tiny(figures)
    save_json(json, "bench tiny", figures)


def _print_tiny(figures: dict[str, Any]) -> None:
    from ..table import Table

    out, rows, mhz = console(), figures["rows"], figures["clock_mhz"]
    names = list(dict.fromkeys(r["network"] for r in rows))
    densities = list(dict.fromkeys(r["wanted_density"] for r in rows))
    table = Table(
        title=f"MLPerf Tiny on {figures['arch']['name']}, {figures['multipliers']} multipliers, mean of {figures['images']} inputs"
    )
    for name in (
        "network",
        "MACs",
        "density",
        "cycles",
        *(("ms",) if mhz else ()),
        "η",
        "memories",
        *(("RTL",) if rows[0]["on_rtl"] else ()),
    ):
        table.add_column(name, justify="left" if name in ("network", "memories", "RTL") else "right")
    for r in rows:
        first = r["wanted_density"] == densities[0]
        table.add_row(
            f"{r['network']}, {r['model']}" if first else "",
            f"{r['macs']:,}" if first else "",
            f"{r['density']:.2f}",
            f"{r['cycles']:,.0f}",
            *((f"{r['ms']:.3f}",) if mhz else ()),
            f"{r['eta']:.2f}",
            "the architecture's" if r["memory"] == "architecture" else "deeper",
            *(("equal" if r["on_rtl"] else "",) if rows[0]["on_rtl"] else ()),
        )
    out.print(table)
    for r in rows:
        if r["refused"] and r["wanted_density"] == densities[0]:
            out.print(f"{r['network']} does not fit: {r['refused']}", markup=False, highlight=False)
    if mhz:
        best = Table(title="Milliseconds an inference: published ones of MLPerf Tiny, and the array's")
        for name in ("system", *names):
            best.add_column(name, justify="left" if name == "system" else "right")
        for system, ms in figures["published_ms"].items():
            best.add_row(system, *("-" if ms[n] is None else f"{ms[n]:g}" for n in names))
        for density in densities:
            mine = {r["network"]: r for r in rows if r["wanted_density"] == density}
            best.add_row(
                f"{figures['arch']['name']}, {mhz:g} MHz, density {density:g}",
                *(f"{mine[n]['ms']:.3f}{'*' if mine[n]['refused'] else ''}" for n in names),
            )
        out.print(best)
        if any(r["refused"] for r in rows):
            out.print("*: with deeper memories than the architecture has.")


@bench.command(short_help="Speed of the simulators.")
@click.option("--images", "-n", type=click.IntRange(1, 450), default=450, show_default=True, help="Images for the models.")
@arch_option
@seed_option
@json_option
def sim(images: int, arch: ArchConfig, seed: int, json: str | None) -> None:
    """Simulated cycles a second of the RTL, images a second of the models."""
    check_folder(json)
    from ..experiments.layer_bench import bench_sim
    from ..table import Table

    with progress_bar() as bar:
        bar.add_task("running the simulators", total=None, note="")
        figures = bench_sim(arch, images, seed)
    table = Table("simulator", "speed", title=f"Simulators, {arch.name}")
    table.add_row("verilator (RTL)", f"{figures['verilator_cycles_per_second'] / 1e6:.2f} million cycles a second")
    table.add_row("golden model", f"{figures['golden_images_per_second']:,.0f} digit images a second")
    table.add_row("timing model", f"{figures['timing_images_per_second']:,.0f} digit images a second")
    console().print(table)
    save_json(json, "bench sim", figures)


@bench.command(short_help="Clock frequency and size in an FPGA.")
@click.option("--seeds", default="1,2,3,4,5", show_default=True, help="Seeds of place and route, comma-separated.")
@click.option(
    "--device", type=Names(DEVICES), help=f"FPGA of another preset's board: {', '.join(DEVICES)}. [default: the preset's]"
)
@click.option("--speed", type=int, help="Speed grade of an ECP5: 6, 7 or 8, the fastest. [default: the board's]")
@click.option(
    "--limit", type=click.FloatRange(min=1), default=180, show_default=True, help="Minutes that place and route of a seed may take."
)
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Seeds at a time: each takes a core, and up to 4 GB for the largest device.",
)
@arch_option
@json_option
def fpga(seeds: str, device: str | None, speed: int | None, limit: float, jobs: int, arch: ArchConfig, json: str | None) -> None:
    """Clock frequency and size in an FPGA, by Yosys, the flow's own placer and router for the ECP5, and nextpnr: some minutes for the
    synthesis, and for each seed.

    What was measured once is kept, as long as neither the gateware nor the flow nor the tools change.
    """
    check_folder(json)
    from sordino_hw.fpga import device_of

    from ..experiments.fpga_bench import bench_fpga, parse_seeds

    wanted, chosen = parse_seeds(seeds), device_of(arch, device, speed)
    with progress_bar() as bar:
        task = bar.add_task("building", total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        figures = bench_fpga(arch, chosen, wanted, report, limit * 60, jobs)
    _print_fpga(figures)
    save_json(json, "bench fpga", figures)


def _print_fpga(figures: dict[str, Any]) -> None:
    from ..table import Table

    out = console()
    table = Table(title=f"{figures['arch']['name']} on {figures['device']}, nextpnr towards {figures['target_mhz']:g} MHz")
    for name in ("seed", "Fmax, MHz", "slowest path", "logic, ns", "routing, ns"):
        table.add_column(name, justify="left" if name == "slowest path" else "right")
    for run in figures["runs"]:
        path = run["critical_path"]
        where = f"{path['source']} to {path['sink']}, {path['cells']} cells"
        table.add_row(str(run["seed"]), f"{run['fmax_mhz']:.1f}", where, f"{path['logic_ns']:.1f}", f"{path['routing_ns']:.1f}")
    out.print(table)
    slow = Table(title=f"Slowest endpoints, seed {figures['runs'][0]['seed']}")
    for name in ("ns", "endpoints", "sink", "driven by"):
        slow.add_column(name, justify="right" if name in ("ns", "endpoints") else "left")
    for group in figures["runs"][0]["slow"][:SLOW_GROUPS]:
        slow.add_row(f"{group['delay']:.1f}", str(group["endpoints"]), group["sink"], group["source"])
    out.print(slow)
    out.print(f"Fmax: median {figures['fmax_median_mhz']:.1f} MHz, worst {figures['fmax_worst_mhz']:.1f} MHz.")
    use = (f"{name} {n:,} of {figures['available'][name]:,} ({figures['share'][name]:.1%})" for name, n in figures["used"].items())
    out.print(f"Used: {', '.join(use)}.")
    out.print(f"Tools: {', '.join(figures['tools'].values())}.")
