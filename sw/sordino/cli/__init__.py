"""The command line: `sordino --help`."""

import typer

from . import bench, check, compile, demo, disasm, doctor, report, run, study, train

__all__ = ["app", "main"]

app = typer.Typer(
    name="sordino",
    help="Sordino: train sparse PyTorch networks, compile them for an event-driven array, count its cycles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("check")(check.check)
app.command("compile")(compile.compile)
app.command("run")(run.run)
app.command("disasm")(disasm.disasm)
app.add_typer(bench.app, name="bench")
app.command("report")(report.report)
app.command("study")(study.study)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the `sordino` program."""
    app()
