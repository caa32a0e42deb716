"""`sordino demo`: the whole loop on real data."""

from pathlib import Path
from typing import Annotated

import typer

from sordino_hw.spec.errors import InputError

from ..experiments.demo import disagreements, run_demo, verdict
from ..report import render
from ..report.jsonfile import document, write_text
from .common import ArchOption, JsonOption, SeedOption, console, friendly, progress_bar, save_json


@friendly
def demo(
    images: Annotated[
        int, typer.Option("--images", "-n", min=1, help="Test images to run on the RTL, of 450; the models run them all.")
    ] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Report to write.")] = Path("demo.html"),
    arch: ArchOption = "ulx3s-85f",
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Train a network on handwritten digits, plain and sparse; compile both, run both on the simulated RTL, compare."""
    for path in (output, json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {path.parent} does not exist.")
    with progress_bar() as bar:
        figures = run_demo(arch, images, seed, bar)
    console.print(verdict(figures))
    gain = figures["comparison"]
    sparse = figures["networks"][1]["name"]
    console.print(
        f"{sparse}: {gain['fewer_nonzero_activations']:.2f} x fewer non-zero activations, {gain['fewer_cycles']:.2f} x fewer cycles, "
        f"accuracy {-100 * gain['accuracy_lost']:+.2f} points. {figures['seconds']['all']:.0f} s in all."
    )
    for line in disagreements(figures):
        console.print(line)
    write_text(output, render(document("demo", figures)))
    console.print(f"Report: {output}")
    save_json(json, "demo", figures)
