"""`check`: before any training or compiling, what is supported, what fits, and the cycles and time to expect."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from sordino_compiler.driver import compile_graph
from sordino_compiler.estimate import LayerEstimate, estimate
from sordino_compiler.inspection import Inspection, NodeReport, inspect, provisional_graph
from sordino_hw.spec import isa
from sordino_hw.spec.arch import PRESETS, ArchConfig, preset
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.program import Program

from .advice import Advice, advise
from .speed import Speed, clock_of, transfers

__all__ = ["Report", "check", "memory_use"]

DENSITIES = (1.0, 0.5, 0.2, 0.1)

ASSUMED = 0.5
"""The density at which times are told: that of most networks with plain ReLUs. The nearest of those estimated is taken."""


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
    speeds: dict[float, Speed] = field(default_factory=dict)
    """Predicted time by assumed density."""
    fits: tuple[str, ...] = ()
    """Of a supported model that does not fit `arch`: the presets that it fits."""

    @property
    def ok(self) -> bool:
        """Whether the model compiles."""
        return not self.problem

    @property
    def supported(self) -> bool:
        """Whether every operator is supported."""
        return all(n.supported for n in self.nodes)

    @property
    def density(self) -> float:
        """The assumed density at which the verdict tells times."""
        return min(self.estimates, key=lambda d: abs(d - ASSUMED))

    def cycles(self, density: float) -> float:
        """Predicted cycles of the whole network at an assumed density (one of those estimated)."""
        return sum(e.cycles for e in self.estimates[density])

    @property
    def advice(self) -> Advice | None:
        """About the layer that costs most; None where nothing was estimated."""
        return advise(self.estimates, self.density, min(self.estimates)) if self.estimates else None

    def to_dict(self) -> dict:
        """Everything as JSON values; the keys are published with the command's schema."""
        advice = self.advice
        return {
            "arch": self.arch.to_dict(),
            "ok": self.ok,
            "problem": self.problem,
            "fits": list(self.fits),
            "operators": [{**dataclasses.asdict(n), "shape": list(n.shape), "supported": n.supported} for n in self.nodes],
            "memory": {k: {"used": used, "depth": depth} for k, (used, depth) in self.memory.items()},
            "segments": self.segments,
            "predicted": [
                {
                    "density": d,
                    "cycles": self.cycles(d),
                    "time": self.speeds[d].to_dict(),
                    "layers": [
                        {"name": e.name, "kind": e.kind, "macs": e.macs, "cycles": e.cycles, "bound": e.bound} for e in layers
                    ],
                }
                for d, layers in self.estimates.items()
            ],
            "advice": None if advice is None else {**dataclasses.asdict(advice), "density": self.density},
        }

    @property
    def verdict(self) -> str:
        """What to conclude, in a few sentences."""
        if not self.supported:
            return "Verdict: it cannot run on the array as it is: replace the operators that are not supported."
        if self.problem:
            if self.fits:
                return f"Verdict: it does not fit {self.arch.name}; it fits {' and '.join(self.fits)}."
            return f"Verdict: it fits no preset, {self.arch.name} included. Make it smaller, or describe a larger architecture."
        advice, speed = self.advice, self.speeds[self.density]
        assert advice is not None
        return (
            f"Verdict: it fits {self.arch.name}. At an activation density of {self.density:g}, predicted:\n{speed}\n"
            f"{advice.layer} costs most, {advice.share:.0%} of the cycles: {advice.text}."
        )

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = [self._operators()]
        if self.problem:
            parts.append(Text("Does not compile: ", "bold red").append(self.problem, "not bold default"))
        else:
            parts += [self._memory(), self._cycles()]
        return Group(*parts, Text(self.verdict))

    def __str__(self) -> str:
        console = Console(width=120, no_color=True)
        with console.capture() as text:
            console.print(self)
        return text.get()

    def _operators(self) -> Table:
        table = Table(title=f"Operators for {self.arch.name}")
        for column in ("operator", "shape", "becomes", "where"):
            table.add_column(column, overflow="fold", min_width=8 if column == "operator" else None)
        for n in self.nodes:
            becomes = Text(n.becomes) if n.supported else Text("not supported: ", "red").append(n.reason, "default")
            table.add_row(escape(n.operator), " x ".join(map(str, n.shape)), becomes, escape(n.source))
        return table

    def _memory(self) -> Table:
        table = Table(
            "memory", "rows used", "rows", "share", title=f"Memory ({self.segments} program segment{'s' * (self.segments > 1)})"
        )
        for name, (used, depth) in self.memory.items():
            table.add_row(name, f"{used:,}", f"{depth:,}", f"{used / depth:.0%}")
        return table

    def _cycles(self) -> Table:
        table = Table(title="Predicted cycles at assumed densities, compute only")
        table.add_column("layer", overflow="fold", min_width=8)
        table.add_column("kind")
        for name in ("MACs", *(f"{d:g}" for d in self.estimates)):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("bound")
        columns = list(self.estimates.values())
        for row in zip(*columns, strict=True):
            cycles = (f"{e.cycles:,.0f}" for e in row)
            table.add_row(escape(row[0].name), row[0].kind, f"{row[0].macs:,}", *cycles, row[-1].bound)
        table.add_section()
        table.add_row("total", "", f"{sum(e.macs for e in columns[0]):,}", *(f"{self.cycles(d):,.0f}" for d in self.estimates), "")
        rates = [self.speeds[d].compute_frames_per_second for d in self.estimates]
        if all(rates):
            table.add_row("frames/s, compute only", "", "", *(f"{rate:,.0f}" for rate in rates), "")
        return table


def check(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    arch: str | ArchConfig = "ulx3s-85f",
    densities: Sequence[float] = DENSITIES,
    *,
    clock: float | None = None,
) -> Report:
    """What of `model` the array supports, whether it fits `arch`, its use of memory, and predicted cycles and time.

    `example`: one input [batch, c, h, w], or several. `clock`: MHz, by default the one that was measured for a preset. Nothing is
    trained, quantised or simulated, and the model is exported once; it takes seconds. Raises `InputError` for a bad example and
    `CompileError` if `torch.export` cannot trace the model; operators that are not supported, and what does not fit, are in the report.
    """
    arch = preset(arch)
    inspection = inspect(model, example)
    if not inspection.supported:
        return Report(arch, inspection.nodes, " ".join(str(p) for p in inspection.problems))
    try:
        program = compile_graph(provisional_graph(model, example, arch, inspection.module))
    except CompileError as error:
        others = tuple(a.name for a in PRESETS.values() if a.hash != arch.hash and _fits(model, example, a, inspection))
        return Report(arch, inspection.nodes, str(error), fits=others)
    estimates = {d: estimate(program, d) for d in densities}
    moved, measured = transfers(program), clock_of(arch, clock)
    return Report(
        arch,
        inspection.nodes,
        "",
        memory_use(program),
        len(program.segments),
        estimates,
        {d: Speed(sum(e.cycles for e in layers), moved, measured) for d, layers in estimates.items()},
    )


def _fits(model: nn.Module, example: Tensor | Sequence[Tensor], arch: ArchConfig, inspection: Inspection) -> bool:
    try:
        compile_graph(provisional_graph(model, example, arch, inspection.module))
    except CompileError:
        return False
    return True


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
