"""`sordino arch`: which architectures there are, what one consists of, and whether a file describes one."""

import click

from sordino_hw.spec.arch import PRESETS, ArchConfig

from .common import ArchType, console, json_option, save_json


@click.group()
def arch() -> None:
    """Architectures: the presets, and files of your own."""


@arch.command("list")
@json_option
def list_(json: str | None) -> None:
    """List the presets."""
    from ..runtime.speed import clock_of
    from ..table import Table

    table = Table(title="Architectures")
    for column in ("name", "cores", "lanes", "activations, words", "weights, rows", "MHz, measured"):
        table.add_column(column, justify="left" if column == "name" else "right")
    for a in PRESETS.values():
        clock = clock_of(a)
        sizes = (f"{a.cores}", f"{a.lanes}", f"{a.act_depth:,}", f"{a.weight_depth:,}")
        table.add_row(a.name, *sizes, f"{clock.mhz:g}" if clock else "")
    console().print(table)
    save_json(json, "arch list", {"architectures": [_figures(a) for a in PRESETS.values()]})


@arch.command("show", short_help="Print every field as TOML.")
@click.argument("architecture", metavar="ARCH", type=ArchType())
@json_option
def show(architecture: ArchConfig, json: str | None) -> None:
    """Print every field of an architecture as TOML: a start for a file of your own.

    ARCH is a preset, a preset with changed fields (ulx3s-85f,act_depth=4096), or a .toml or .json file.
    """
    from sordino_hw.spec.archfile import to_toml

    if json != "-":
        print(to_toml(architecture), end="")
    save_json(json, "arch show", _figures(architecture), quiet=True)


@arch.command("check", short_help="Say whether a file or a text describes a valid architecture.")
@click.argument("architecture", metavar="ARCH", type=ArchType())
def check(architecture: ArchConfig) -> None:
    """Say whether a file or a text describes a valid architecture, and how it differs from the nearest preset."""
    fields = architecture.to_dict()

    def differences(other: ArchConfig) -> list[str]:
        theirs = other.to_dict()
        return [f"{k} {fields[k]} (there {theirs[k]})" for k in fields if k != "name" and fields[k] != theirs[k]]

    near = min(PRESETS.values(), key=lambda a: len(differences(a)))
    changed = differences(near)
    text = f"as {near.name}, but " + ", ".join(changed) if changed else f"the same as {near.name}"
    console().print(f"{architecture.name} ({architecture.hash:08x}) is valid: {text}.", markup=False)


def _figures(a: ArchConfig) -> dict:
    from ..runtime.speed import clock_of

    clock = clock_of(a)
    return {"arch": a.to_dict(), "hash": f"{a.hash:08x}", "clock_mhz": clock.mhz if clock else None}
