"""What the commands share: options, consoles, figures as JSON. Imports nothing heavy."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from sordino_hw.spec.arch import PRESETS, ArchConfig, preset
from sordino_hw.spec.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "INPUT",
    "OUTPUT",
    "ArchType",
    "Names",
    "Numbers",
    "arch_option",
    "backend_option",
    "check_folder",
    "clock_option",
    "console",
    "json_option",
    "progress_bar",
    "save_json",
    "seed_option",
]

WIDE = 120
"""Columns of the output where there is no terminal and COLUMNS is not set."""

DEFAULT_ARCH = "ulx3s-85f"

INPUT = click.Path(path_type=Path)
"""A file to read; that it is there, and what it holds, is checked where it is read."""

OUTPUT = click.Path(path_type=Path)
"""A file to write."""


class ArchType(click.ParamType):
    """`NAME`, `NAME,field=value,...`, `FILE.toml` or `FILE.json`, as an `ArchConfig`."""

    name = "arch"

    def __init__(self, as_text: bool = False):
        self.as_text = as_text
        """Whether the text itself is the value, once it has been checked."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "ArchConfig | str":
        found = preset(value)
        return value if self.as_text else found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in PRESETS if name.startswith(incomplete)]
        return names or [CompletionItem(incomplete, type="file")]


class Names(click.ParamType):
    """A text that completes to one of `names`; whether it is one of them is checked where it is used, with more to say about it."""

    name = "text"

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in self.names if name.startswith(last)]


class Numbers(click.ParamType):
    """Comma-separated numbers, as a tuple."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float], example: str):
        self.kind, self.example = kind, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            option = param.opts[0] if param else "numbers"
            raise InputError(f"{option} {value}: give numbers, comma-separated, such as {self.example}.") from None


ARCH_HELP = (
    f"Architecture: a preset ({', '.join(PRESETS)}), a preset with changed fields (ulx3s-85f,act_depth=4096), or a .toml or .json file; "
    "see `sordino arch`."
)

arch_option = click.option("--arch", type=ArchType(), default=DEFAULT_ARCH, show_default=True, help=ARCH_HELP)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
backend_option = click.option(
    "--backend",
    type=click.Choice(["golden", "timing", "verilator"]),
    default="golden",
    show_default=True,
    help="golden: values only; timing: values and cycles; verilator: the RTL itself.",
)
clock_option = click.option(
    "--clock",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MHZ",
    help="Clock frequency for times in ms. [default: measured, for the presets]",
)


def _json_callback(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    ctx.meta["sordino.json_on_stdout"] = value == "-"
    return value


json_option = click.option(
    "--json",
    metavar="FILE",
    callback=_json_callback,
    is_eager=True,
    help="Write the figures to FILE as JSON; - writes them to standard output, and everything else to standard error.",
)


def console() -> "Console":
    """The console of the results: standard output, or standard error where `--json -` takes that."""
    from rich.console import Console

    context = click.get_current_context(silent=True)
    stderr = bool(context and context.meta.get("sordino.json_on_stdout"))
    stream = sys.stderr if stderr else sys.stdout
    fixed = WIDE if not stream.isatty() and "COLUMNS" not in os.environ else None
    return Console(stderr=stderr, width=fixed, highlight=False)


def progress_bar() -> "Progress":
    """What the commands show while they work, on standard error: bars on a terminal, else a line per step."""
    from rich.console import Console

    from ..progress import lines, progress_bar

    errors = Console(stderr=True)
    return progress_bar(console=errors, transient=True) if errors.is_terminal else lines(errors)


def save_json(path: str | None, command: str, figures: dict[str, Any], quiet: bool = False) -> None:
    """Writes the figures, if they are wanted, and says so unless `quiet`."""
    from ..report.jsonfile import document, write_json

    if path == "-":
        print(json.dumps(document(command, figures), indent=1))
    elif path is not None:
        write_json(path, command, figures)
        if not quiet:
            console().print(f"Figures: {path}", markup=False)


def check_folder(*paths: Path | str | None) -> None:
    """Raises `InputError` where a file is to be written into a folder that does not exist: now, not after the work."""
    for path in paths:
        if path is not None and path != "-" and not Path(path).parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {Path(path).parent} does not exist.")
