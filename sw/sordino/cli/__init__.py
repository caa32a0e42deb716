"""The command line: `sordino --help`.

The modules of the commands import nothing heavy: what a command needs, such as PyTorch, is imported when it runs, so that help,
shell completion and errors in the arguments come at once.
"""

import difflib
import sys

import click

from sordino_hw.spec.errors import SordinoError
from sordino_hw.spec.text import printable

from .arch import arch
from .bench import bench
from .check import check
from .compile import compile
from .completion import completion
from .demo import demo
from .disasm import disasm
from .doctor import doctor
from .generate import generate
from .report import report
from .run import run
from .study import study
from .train import train

__all__ = ["app", "main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as a shell has it."""


class Program(click.Group):
    """All commands. A `SordinoError` becomes one paragraph on standard error and exit code 2, Ctrl-C one line and `INTERRUPTED`."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SordinoError as error:
            lines = (printable(line, limit=10_000) for line in str(error).split("\n"))  # it may quote a file
            print("sordino: " + "\n".join(lines), file=sys.stderr)
            ctx.exit(2)
        except KeyboardInterrupt:
            print("sordino: interrupted; what was not finished is not written.", file=sys.stderr)
            ctx.exit(INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used, not of the alphabet."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and (near := difflib.get_close_matches(name, self.commands, 1)):
            ctx.fail(f"No such command {name!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.group("sordino", cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="sordino", message="sordino %(version)s")
def app() -> None:
    """Sordino: train sparse PyTorch networks, compile them for an event-driven array, count its cycles."""


for command in (demo, train, check, compile, run, disasm, bench, report, study, arch, generate, doctor, completion):
    app.add_command(command)


def main() -> None:
    """Entry point of the `sordino` program."""
    app(prog_name="sordino")
