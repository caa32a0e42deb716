"""Names that come from files: on a terminal, in an error and in a plot they are text and nothing else."""

import re

import pytest
from click.testing import CliRunner
from rich.console import Console

from sordino.cli import app
from sordino.report import plots
from sordino.runtime.stats import LayerStats
from sordino.table import Table

HOSTILE = ["\x1b[2Jclear", "[/x]", "[red]red[/red]", r"$\frac$", "$x$", "<b>&", "\u202eright to left", "\x9b31m"]


@pytest.mark.parametrize("name", HOSTILE)
def test_tables(name):
    console = Console(width=100, force_terminal=False, no_color=True)
    table = Table(name, title=name)
    table.add_row(name)
    with console.capture() as text:
        console.print(table)
    shown = text.get()
    assert "\x1b" not in shown and "\x9b" not in shown and "\u202e" not in shown
    assert shown.count(name if name.isprintable() else name.lstrip("\x1b\u202e\x9b")) >= 2


def test_errors():
    result = CliRunner().invoke(app, ["disasm", "\x1b[2Jno.sdn"])
    assert result.exit_code == 2 and "\x1b" not in result.stderr and r"\x1b[2Jno.sdn: no such file" in result.stderr


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.isprintable()])
def test_plots(name):
    layer = LayerStats(
        name, "conv", "", 10, 10, 10, 0.5, 10, {"busy": 10, "fetch": 0, "ppu": 0, "marker": 0, "memory": 0, "idle": 0}, 1, 0, 1.0
    )
    stats = {"layers": [vars(layer)], "total": vars(layer)}
    svg = plots.stalls([("a", stats)])
    text = re.sub(r"<!--.*?-->", "", str(svg), flags=re.DOTALL)
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text
