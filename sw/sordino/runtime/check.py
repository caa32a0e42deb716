"""`check`: before any training or compiling, what is supported, what fits, and the cycles and time to expect."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from sordino_compiler.driver import compile_graph
from sordino_compiler.edge_steps import edges
from sordino_compiler.edges import Cut
from sordino_compiler.estimate import LayerEstimate, estimate
from sordino_compiler.fx.problems import listed
from sordino_compiler.graph import Graph
from sordino_compiler.inspection import Inspection, NodeReport, inspect, provisional_graph
from sordino_hw.spec.arch import PRESETS, ArchConfig, preset
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.program import Program

from ..table import Table
from .advice import Advice, advise
from .edges import StepCost, costs
from .memory import live_words, memory_use, wanted_words
from .speed import Speed, clock_of, transfers

__all__ = ["Report", "check"]

DENSITIES = (1.0, 0.5, 0.2, 0.1)

WIDE = 100
"""Columns of a terminal from which on the table of cycles has the layers' kinds and operations too."""

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
    live: list[tuple[str, int]] = field(default_factory=list)
    """Words of activation memory in use while each layer runs; of a network that does not fit, the words that whole tensors want."""
    host: list[StepCost] = field(default_factory=list)
    """What the host computes before and after the array."""
    fits: tuple[str, ...] = ()
    """Of a supported model that does not fit `arch`: the presets that it fits."""

    def __repr__(self) -> str:
        return f"Report(ok={self.ok}, {len(self.nodes)} operators, arch={self.arch.name!r}); print it for the whole"

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
            "host": [{**dataclasses.asdict(s), "shape": list(s.shape)} for s in self.host],
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
            "activation_memory": [{"layer": name, "words": words} for name, words in self.live],
            "advice": None if advice is None else {**dataclasses.asdict(advice), "density": self.density},
        }

    @property
    def verdict(self) -> str:
        """What to conclude, in a few sentences."""
        if not self.supported:
            return "Verdict: it cannot run on the array as it is: replace the operators that are not supported."
        if self.problem:
            text = f"Verdict: it does not fit {self.arch.name}; "
            text += (
                f"it fits {' and '.join(self.fits)}."
                if self.fits
                else "nor any preset. Make it smaller, or describe a larger architecture."
            )
            return text + self._largest()
        advice, speed = self.advice, self.speeds[self.density]
        assert advice is not None
        return (
            f"Verdict: it fits {self.arch.name}. At an activation density of {self.density:g}, predicted:\n{speed}\n"
            f"{advice.layer} costs most, {advice.share:.0%} of the cycles: {advice.text}."
        )

    def _largest(self) -> str:
        """Where a network that does not fit wants most activation memory, if that is more than there is."""
        layer, words = max(self.live, key=lambda item: item[1], default=("", 0))
        if words <= self.arch.act_depth:
            return ""
        over = sum(w > self.arch.act_depth for _, w in self.live)
        return (
            f" Without tiles, {layer} needs most activation memory, {words:,} words of the {self.arch.act_depth:,} there "
            f"({over} of {len(self.live)} layers need more than there is)."
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._operators()
        if self.problem:
            yield Text("Does not compile: ", "bold red").append(self.problem, "not bold default")
        else:
            yield self._memory()
            yield self._cycles(options.max_width >= WIDE)
        if self.host:
            yield self._host()
        yield Text(self.verdict)

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
            table.add_row(n.operator, " x ".join(map(str, n.shape)), becomes, n.source)
        return table

    def _memory(self) -> Table:
        table = Table(
            "memory", "rows used", "rows", "share", title=f"Memory ({self.segments} program segment{'s' * (self.segments > 1)})"
        )
        for name, (used, depth) in self.memory.items():
            table.add_row(name, f"{used:,}", f"{depth:,}", f"{used / depth:.0%}")
        return table

    def _host(self) -> Table:
        table = Table(title="Steps on the host, of an image (measured here)")
        table.add_column("side")
        table.add_column("step", overflow="fold", min_width=8)
        for name in ("operations", "µs"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("where", overflow="fold")
        for s in self.host:
            table.add_row(s.side, s.step, f"{s.operations:,}", f"{1e3 * s.milliseconds:,.0f}", s.source)
        return table

    def _cycles(self, wide: bool) -> Table:
        table = Table(title="Predicted cycles at assumed densities, compute only")
        table.add_column("layer", overflow="fold", min_width=8)
        for name in (*(("kind", "MACs") if wide else ()), *(f"{d:g}" for d in self.estimates)):
            table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
        table.add_column("bound")
        columns = list(self.estimates.values())
        for row in zip(*columns, strict=True):
            cycles = (f"{e.cycles:,.0f}" for e in row)
            table.add_row(row[0].name, *((row[0].kind, f"{row[0].macs:,}") if wide else ()), *cycles, row[-1].bound)
        table.add_section()
        operations = ("", f"{sum(e.macs for e in columns[0]):,}") if wide else ()
        table.add_row("total", *operations, *(f"{self.cycles(d):,.0f}" for d in self.estimates), "")
        rates = [self.speeds[d].compute_frames_per_second for d in self.estimates]
        if all(rates):
            table.add_row("frames/s", *(("", "") if wide else ()), *(f"{rate:,.0f}" for rate in rates), "")
        return table


def check(
    model: Any,
    example: Any,
    arch: str | ArchConfig = "ulx3s-85f",
    densities: Sequence[float] = DENSITIES,
    *,
    clock: float | None = None,
) -> Report:
    """What of `model` the array supports, whether it fits `arch`, its use of memory, and predicted cycles and time.

    `model`: an `nn.Module`, also compiled, in a wrapper, or in half precision; an `ExportedProgram`; a function. `example`: one input
    [batch, c, h, w], an array or its shape; a tuple for several; a dict by argument name, or what forward takes. `clock`: MHz, by default the one that was measured for a preset. Nothing is
    trained, quantised or simulated, and the model is exported once; it takes seconds. Raises `InputError` for what is no
    model, and for an example that it does not take, and `CompileError` if `torch.export` cannot trace the model; operators that are not supported, and what does not fit, are in the report.
    """
    arch = preset(arch)
    inspection = inspect(model, example, arch)
    if not inspection.supported:
        return Report(arch, inspection.nodes, " ".join(listed(inspection.problems)))
    graph = None
    host: list[StepCost] = []
    try:
        graph = provisional_graph(model, example, arch, inspection.cut)
        host = _host_costs(inspection.cut, graph)
        program = compile_graph(graph)
    except CompileError as error:
        programs = {a.name: _compiled(model, example, a, inspection) for a in PRESETS.values() if a.hash != arch.hash}
        live = [] if graph is None else wanted_words(graph)
        return Report(
            arch, inspection.nodes, str(error), live=live, host=host, fits=tuple(n for n, p in programs.items() if p is not None)
        )
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
        live_words(program),
        host,
    )


def _host_costs(cut: Cut, graph: Graph) -> list[StepCost]:
    """The host's steps around a provisional graph."""
    if cut.whole:
        return []
    inputs = [v.name for v in graph.inputs]
    names = dict(zip(dict.fromkeys(cut.plan.outputs), graph.outputs, strict=True))
    found = edges(cut, inputs, [names[n] for n in cut.plan.outputs])
    arrays = dict(zip(inputs, found.input_shapes, strict=True))
    return costs(found.host, arrays, dict(zip(found.outputs, found.output_shapes, strict=True)))


def _compiled(model: Any, example: Any, arch: ArchConfig, inspection: Inspection) -> Program | None:
    """The model compiled for `arch`; None where it does not fit."""
    try:
        return compile_graph(provisional_graph(model, example, arch, inspection.cut))
    except CompileError:
        return None
