"""A layout for wave viewers: the ports of every stage, grouped by the way that data takes through the array."""

from collections.abc import Iterator
from pathlib import Path

from amaranth.hdl import Fragment, Value
from amaranth.lib.wiring import Component
from vcd.gtkw import GTKWSave

from sordino_hw.gateware.top import Top
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ToolError
from sordino_hw.spec.files import replacing

__all__ = ["GROUPS", "layout_path", "write_layout"]

GROUPS = {
    "host": "Host",
    "": "Control",
    "fetch": "Fetch",
    "issue": "Issue",
    "compute": "Compute",
    "post": "Post-processing",
    "memory": "Memory",
}
"""Groups of the layout in their order, by the folder of `sordino_hw.gateware` that a stage is in."""

_PACKAGE = "sordino_hw.gateware"
_ROOT = "top.top.accelerator"
"""The accelerator's scope in the simulator's waves."""


def layout_path(waves: str | Path) -> Path:
    """The layout that belongs to a file of waves: beside it, with the suffix `.gtkw`."""
    return Path(waves).with_suffix(".gtkw")


def write_layout(arch: ArchConfig, waves: str | Path) -> Path:
    """Writes the layout for waves of `arch` beside them and returns its path.

    GTKWave and Surfer read it. Each group of `GROUPS` holds the stages of its folder, each stage its ports. Parts
    of `lib` and `primitives` are left out. Raises `ToolError` if the file cannot be written.
    """
    path = layout_path(waves)
    stages: dict[str, list[tuple[tuple[str, ...], list[str]]]] = {name: [] for name in GROUPS.values()}
    for where, group, ports in _stages(Fragment.get(Top(arch), None), ()):
        stages[group].append((where, ports))
    with replacing(path, ToolError) as temporary, temporary.open("w") as file:
        layout = GTKWSave(file)
        layout.dumpfile(str(waves))
        layout.sst_expanded(True)
        for name, members in stages.items():
            with layout.group(f"{name} ({len(members)})", closed=name != GROUPS[""]):
                for where, ports in members:
                    with layout.group(".".join(where), closed=True):
                        for port in ports:
                            layout.trace(".".join((_ROOT, *where, port)))
    return path


def _stages(fragment: Fragment, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, list[str]]]:
    """Of every stage below `fragment`: its scope, its group, and its ports as the waves name them."""
    for part, name, *_ in fragment.subfragments:
        where = (*path, name)
        component = next((origin for origin in part.origins or () if isinstance(origin, Component)), None)
        if component is not None and (group := _group(component)) is not None:
            yield where, group, list(_ports(component))
        yield from _stages(part, where)


def _group(component: Component) -> str | None:
    """The group of a stage; None for parts that are no stage of their own."""
    module = type(component).__module__
    if not module.startswith(f"{_PACKAGE}."):
        return None
    folder, _, rest = module.removeprefix(f"{_PACKAGE}.").partition(".")
    if not rest:
        return GROUPS[""]
    if folder == "small":  # a variant of the stage of the same name
        folder = next(
            (base.__module__.split(".")[-2] for base in type(component).__mro__[1:] if ".small." not in base.__module__), ""
        )
    return GROUPS.get(folder)


def _ports(component: Component) -> Iterator[str]:
    for parts, _member, value in component.signature.flatten(component):
        if bits := len(Value.cast(value)):
            yield "__".join(map(str, parts)) + (f"[{bits - 1}:0]" if bits > 1 else "")
