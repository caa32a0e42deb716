"""`sordino demo`: the whole loop on real data."""

from pathlib import Path

import click

from sordino_hw.spec.arch import ArchConfig

from .common import OUTPUT, arch_option, check_folder, console, json_option, progress_bar, save_json, seed_option


@click.command(short_help="A trained network for digits, plain and sparse, on the simulated RTL.")
@click.option(
    "--images",
    "-n",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Test images to run on the RTL, of 450; the models run them all.",
)
@click.option("--output", "-o", type=OUTPUT, default=Path("demo.html"), show_default=True, help="Report to write.")
@click.option(
    "--train",
    is_flag=True,
    help="Train both networks now (minutes; other processors come to other weights) instead of taking those that come with it.",
)
@arch_option
@seed_option
@json_option
def demo(images: int, output: Path, train: bool, arch: ArchConfig, seed: int, json: str | None) -> None:
    """Compile a network for handwritten digits, plain and sparse, run both on the simulated RTL, and compare.

    The two trained networks come with Sordino, so that every machine counts the same cycles.
    """
    check_folder(output, json)
    from ..experiments.demo import disagreements, points, run_demo, verdict
    from ..report import render
    from ..report.jsonfile import document, write_text

    with progress_bar() as bar:
        figures = run_demo(arch, images, seed, bar, train)
    out = console()
    out.print(verdict(figures))
    gain = figures["comparison"]
    sparse = figures["networks"][1]["name"]
    out.print(
        f"{sparse}: {gain['fewer_nonzero_activations']:.2f} x fewer non-zero activations, {gain['fewer_cycles']:.2f} x fewer cycles, "
        f"accuracy {points(-100 * gain['accuracy_lost'])} points. {figures['seconds']['all']:.0f} s in all."
    )
    for line in disagreements(figures):
        out.print(line, markup=False)
    write_text(output, render(document("demo", figures)))
    out.print(f"Report: {output}", markup=False)
    save_json(json, "demo", figures)
