"""`sordino report`: figures as a page."""

from pathlib import Path

import click

from .common import INPUT, OUTPUT, console


@click.command(short_help="Make an HTML page from figures written with --json.")
@click.argument("result", metavar="RESULT.json", type=INPUT)
@click.option("--output", "-o", type=OUTPUT, default=Path("report.html"), show_default=True, help="Page to write.")
def report(result: Path, output: Path) -> None:
    """Make a self-contained HTML page with plots from figures that another command wrote with --json."""
    from ..report import render
    from ..report.jsonfile import read_json, write_text

    write_text(output, render(read_json(result)))
    console().print(f"Report: {output}", markup=False)
