"""`sordino report`: figures as a page."""

from pathlib import Path
from typing import Annotated

import typer

from ..report import render
from ..report.jsonfile import read_json, write_text
from .common import console, friendly


@friendly
def report(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT.json", help="Figures of `sordino demo`, `run` or `study`, written with --json.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write.")] = Path("report.html"),
) -> None:
    """Make a self-contained HTML page with plots from a JSON file of figures."""
    write_text(output, render(read_json(result)))
    console.print(f"Report: {output}")
