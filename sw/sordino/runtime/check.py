"""`check`: before any training or compiling, what is supported, what fits, and the cycles to expect."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from torch import Tensor, nn

from sordino_compiler.driver import compile_graph
from sordino_compiler.estimate import LayerEstimate, estimate
from sordino_compiler.inspection import NodeReport, inspect, provisional_graph
from sordino_hw.spec import isa
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.program import Program

__all__ = ["Report", "check", "memory_use"]

DENSITIES = (1.0, 0.5, 0.2, 0.1)


@dataclass(frozen=True)
class Report:
    """What `check` found; print it, or read its fields."""

    arch: ArchConfig
    nodes: list[NodeReport]
    """Every operator of the exported graph."""
    problem: str
    """Why the model cannot be compiled: unsupported operators, or what does not fit; empty if it can."""
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Rows used and rows there, by memory; of the fullest segment for those that are loaded anew for each."""
    segments: int = 0
    estimates: dict[float, list[LayerEstimate]] = field(default_factory=dict)
    """Predicted cycles by assumed density of every activation."""

    @property
    def ok(self) -> bool:
        """Whether the model compiles."""
        return not self.problem

    def cycles(self, density: float) -> float:
        """Predicted cycles of the whole network at an assumed density (one of those estimated)."""
        return sum(e.cycles for e in self.estimates[density])

    def to_dict(self) -> dict:
        """Everything as JSON values (see docs/reference/cli.md)."""
        return {
            "arch": self.arch.to_dict(),
            "ok": self.ok,
            "problem": self.problem,
            "operators": [{**dataclasses.asdict(n), "shape": list(n.shape), "supported": n.supported} for n in self.nodes],
            "memory": {k: {"used": used, "depth": depth} for k, (used, depth) in self.memory.items()},
            "segments": self.segments,
            "predicted": [
                {
                    "density": d,
                    "cycles": self.cycles(d),
                    "layers": [
                        {"name": e.name, "kind": e.kind, "macs": e.macs, "cycles": e.cycles, "bound": e.bound} for e in layers
                    ],
                }
                for d, layers in self.estimates.items()
            ],
        }

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._operators()]
        if self.problem:
            parts.append(f"[bold red]Does not compile:[/] {self.problem}")
        else:
            parts += [self._memory(), self._cycles()]
        return Group(*parts)

    def __str__(self) -> str:
        console = Console(width=120, no_color=True)
        with console.capture() as text:
            console.print(self)
        return text.get()

    def _operators(self) -> Table:
        table = Table("operator", "shape", "becomes", "where", title=f"Operators for {self.arch.name}")
        for n in self.nodes:
            becomes = n.becomes if n.supported else f"[red]not supported:[/] {n.reason}"
            table.add_row(n.operator, " x ".join(map(str, n.shape)), becomes, n.source)
        return table

    def _memory(self) -> Table:
        table = Table(
            "memory", "rows used", "rows", "share", title=f"Memory ({self.segments} program segment{'s' * (self.segments > 1)})"
        )
        for name, (used, depth) in self.memory.items():
            table.add_row(name, f"{used:,}", f"{depth:,}", f"{used / depth:.0%}")
        return table

    def _cycles(self) -> Table:
        table = Table(
            "layer", "kind", "MACs", *(f"{d:g}" for d in self.estimates), "bound", title="Predicted cycles at assumed densities"
        )
        columns = list(self.estimates.values())
        for row in zip(*columns, strict=True):
            table.add_row(row[0].name, row[0].kind, f"{row[0].macs:,}", *(f"{e.cycles:,.0f}" for e in row), row[-1].bound)
        table.add_section()
        table.add_row("total", "", f"{sum(e.macs for e in columns[0]):,}", *(f"{self.cycles(d):,.0f}" for d in self.estimates), "")
        return table


def check(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    arch: str | ArchConfig = "ulx3s-85f",
    densities: Sequence[float] = DENSITIES,
) -> Report:
    """What of `model` the array supports, whether it fits `arch`, its use of memory, and predicted cycles.

    `example`: one input [batch, c, h, w], or several. Nothing is trained, quantised or simulated; it takes seconds.
    Raises `InputError` for a bad example and `CompileError` if `torch.export` cannot trace the model; operators that are
    not supported, and what does not fit, are in the report.
    """
    arch = preset(arch)
    inspection = inspect(model, example)
    if not inspection.supported:
        return Report(arch, inspection.nodes, " ".join(str(p) for p in inspection.problems))
    try:
        program = compile_graph(provisional_graph(model, example, arch))
    except CompileError as error:
        return Report(arch, inspection.nodes, str(error))
    return Report(
        arch, inspection.nodes, "", memory_use(program), len(program.segments), {d: estimate(program, d) for d in densities}
    )


def memory_use(program: Program) -> dict[str, tuple[int, int]]:
    """Rows used and rows there, by memory; of the fullest segment for those that are loaded anew for each.

    Of memories that every core has, one core's: all use the same rows.
    """
    a = program.arch

    def rows(image: np.ndarray) -> int:
        return image.shape[1 if image.ndim == 3 else 0]

    activations = max(
        t.base + (t.shape[1] - 1) * t.row_pitch + (t.steps - 1) * t.pixel_pitch + max(t.slots) // a.lanes + 1
        for t in program.tensors.values()
    )
    images = {
        "instructions": ("imem", isa.Region.IMEM),
        "weights": ("weight", isa.Region.WEIGHT),
        "weight masks": ("mask", isa.Region.MASK),
        "requantiser parameters": ("bias", isa.Region.PARAM),
        "tables": ("table", isa.Region.TABLE),
    }
    used = {
        name: (max(rows(getattr(s, image)) for s in program.segments), isa.region_depth(a, region))
        for name, (image, region) in images.items()
    }
    return {"activations": (activations, a.act_depth), **used}
