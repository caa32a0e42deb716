"""What one activation costs on the array, measured; and penalties weighted with it."""

import copy
import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sordino_compiler.fx.source import module_path
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.asm import Step
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.program import Program
from sordino_sim.golden.machine import Machine
from sordino_sim.timing.model import Timing

from ..nn import SparseActivation, fan_out
from ..nn.base import Inputs, density, device_of, first, sites
from ..quantization import QuantizedModel, quantize
from ..runtime.accelerator import Accelerator
from ..runtime.compile import compile
from ..runtime.stats import cycles_of

__all__ = ["COSTS", "Cost", "CostWeights", "SiteCost", "cost", "weigh"]

COSTS = ("uniform", "fanout", "cycles")
"""What a layer's penalty can be weighted with."""

CALIBRATION = 256
"""Inputs that set the scales of a model that is measured, at most."""


@dataclass(frozen=True)
class SiteCost:
    """One activation of the user's model."""

    tensors: tuple[str, ...]
    """The program's tensors that it writes: several where a module is called several times."""
    events: float
    """Non-zero activations, mean of an image."""
    density: float
    cycles_per_event: float
    """Marginal cycles of one non-zero activation; not negative."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"tensors": list(self.tensors)}


@dataclass(frozen=True)
class Cost:
    """What `cost` measured. `sites` by module path, or by tensor where a program says nothing of modules."""

    arch: str
    images: int
    share: float
    cycles: float
    """Of the whole network, mean of an image."""
    sites: dict[str, SiteCost]

    @property
    def weights(self) -> dict[str, float]:
        """Cycles per event by site."""
        return {name: s.cycles_per_event for name, s in self.sites.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return dataclasses.asdict(self) | {"sites": {n: s.to_dict() for n, s in self.sites.items()}}


def cost(
    model: nn.Module | QuantizedModel | Program,
    calibration: Inputs,
    arch: str | ArchConfig | None = None,
    *,
    images: int = 8,
    share: float = 0.25,
    seed: int = 0,
) -> Cost:
    """Measures the cycles that one event of each activation tensor costs on the array, at the present activations.

    For each site `s`, the timing model (its cycles are those of the RTL) runs the compiled network twice on the same
    images: once as it is, and once with a random `share` of the site's non-zero activations set to zero:

        cycles_per_event(s) = max(0, C - C_s) / (E_s - E'_s)

    `C`, `C_s` : cycles of the whole network without and with the removal; `E_s`, `E'_s` : the site's non-zero activations
    before and after, all summed over the images. In the second run every convolution, depthwise and fully connected
    layer, and every other site, gets its present value restored: the difference is what the site's own readers
    save (a pooling or an addition between the site and a convolution included), not what smaller values downstream
    would. A site without any non-zero activation is measured the other way round, with a share of its zeros set to 1.

    The difference quotient, and not a layer's cycles over its events, because cycles are not proportional: a layer whose
    post-processing is the bottleneck gets no faster, and its events cost nothing at the margin; the constant part of a
    layer's cycles belongs to no event. A small `share` is closer to the slope, a large one less noisy; 1 gives
    the mean from here to silence.

    Parameters
    ----------
    model : any module, which is quantised (post-training) and compiled, as a copy on the CPU; a quantised model; or a
        program
    calibration : float tensor (N, ...), or a tuple of one for each input: the first 256 set the scales of a module; the
        first `images` are measured
    arch : as for `sordino.quantize` and `sordino.compile`
    share : part of the non-zero activations that is removed, above 0, at most 1
    seed : of the choice

    Of a model, the sites are its ReLUs and layers of a method, by module path; of a program, the tensors between its
    layers by name. Raises `InputError` for arguments out of range, and what `quantize` and `compile` raise.
    """
    if not 0 < share <= 1:
        raise InputError(f"cost: share must be above 0 and at most 1, not {share!r}")
    if images < 1:
        raise InputError(f"cost: at least one image is needed, not images={images!r}")
    scaling = [t.cpu() for t in first(calibration, CALIBRATION)]
    if isinstance(model, Program):
        if arch is not None and preset(arch).hash != model.arch.hash:
            raise InputError(f"cost: the program is compiled for {model.arch.name}; compile it for the architecture to be measured")
        program = model
        found: dict[str, tuple[str, ...]] = {t.output: (t.output,) for t in program.layers if t.output not in program.outputs}
    else:
        if isinstance(model, QuantizedModel):
            quantised = model
        else:
            batches = list(zip(*(t.split(64) for t in scaling), strict=True))
            quantised = quantize(_on_cpu(model), batches, "ulx3s-85f" if arch is None else arch)
        program = compile(quantised, arch=arch)
        wanted = [name for name, _ in sites(model)] if not isinstance(model, QuantizedModel) else None
        found = _tensors(quantised, program, wanted)
    accelerator, x = Accelerator(program), first(calibration, images)
    if len(x) != len(program.inputs):
        raise InputError(f"cost: the network has {len(program.inputs)} inputs, but calibration holds {len(x)} tensors")
    integers = {name: accelerator.quantise(name, t) for name, t in zip(program.inputs, x, strict=True)}
    return _measure(program, integers, found, share, seed)


def _on_cpu(model: nn.Module) -> nn.Module:
    return model if device_of(model).type == "cpu" else copy.deepcopy(model).cpu()


def _tensors(model: QuantizedModel, program: Program, wanted: list[str] | None) -> dict[str, tuple[str, ...]]:
    """The tensors of each site: those whose value was made in the site's module."""
    found: dict[str, list[str]] = {} if wanted is None else {name: [] for name in wanted}
    written = {layer.output for layer in program.layers}
    for name, layer in model.layers.items():
        path = module_path(layer.out)
        if name in written and (path in found or (wanted is None and name not in program.outputs)):
            found.setdefault(path or name, []).append(name)
    for path, tensors in found.items():
        if not tensors:
            raise InputError(f"cost: no tensor of the compiled network belongs to the activation {path!r}: does the model call it?")
    return {path: tuple(tensors) for path, tensors in found.items()}


def _measure(program: Program, inputs: dict[str, np.ndarray], found: dict[str, tuple[str, ...]], share: float, seed: int) -> Cost:
    timing, batch = Timing(program), len(next(iter(inputs.values())))
    names = {t for tensors in found.values() for t in tensors} | {layer.output for layer in program.layers}
    result = timing.run(inputs, sorted(names))
    cycles, values = _cycles(result.records), result.tensors
    measured = {}
    for i, (path, tensors) in enumerate(found.items()):
        rng = np.random.default_rng([seed, i])
        events = sum(int(np.count_nonzero(values[t])) for t in tensors)
        changed = {t: _thinned(values[t], share, rng) if events else _filled(values[t], share, rng) for t in tensors}
        removed = events - sum(int(np.count_nonzero(v)) for v in changed.values())
        pinned = {t: v for t, v in values.items() if t not in _follow(program, tensors, found)} | changed
        saved = cycles - _cycles(timing.run(inputs, before=_Pin(program, pinned)).records)
        size = sum(values[t].size for t in tensors)
        measured[path] = SiteCost(tensors, events / batch, events / size, max(0.0, saved / removed) if removed else 0.0)
    return Cost(program.arch.name, batch, share, cycles / batch, measured)


def _cycles(records: np.ndarray | None) -> int:
    assert records is not None
    return int(cycles_of(records).sum())


def _thinned(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A copy with a share of the non-zero values set to zero, one at least."""
    x = x.copy()
    places = np.flatnonzero(x)
    x.flat[rng.permutation(places)[: max(1, round(share * len(places)))]] = 0
    return x


def _filled(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(x.shape) < share).astype(x.dtype)


def _follow(program: Program, tensors: tuple[str, ...], found: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The tensors that change with `tensors`, through layers without weights, up to the next site."""
    others = {t for group in found.values() for t in group}
    free: set[str] = set(tensors)
    for layer in program.layers:
        if layer.macs == 0 and layer.output not in others and free & set(layer.inputs):
            free.add(layer.output)
    return free - set(tensors)


class _Pin:
    """Overwrites tensors with given values, each when the layer that writes it has run."""

    def __init__(self, program: Program, values: Mapping[str, np.ndarray]):
        self.program, self.values = program, values
        self.first: dict[tuple[int, int], list[str]] = {}
        """By (segment, operation) the tensors to write before it: the outputs of the layer that has just ended."""
        last = -1
        for s, segment in enumerate(program.segments):
            for o, op in enumerate(segment.ops):
                if op.layer != last and last >= 0:
                    self.first[s, o] = [program.layers[last].output]
                last = op.layer

    def __call__(self, segment: int, op: int, step: Step, machine: Machine) -> None:
        for name in self.first.get((segment, op), ()):
            if name in self.values:
                machine.store(*self.program.pack(name, self.values[name][machine.first : machine.first + machine.batch]))


# -- weights of penalties ----------------------------------------------------------------------------------------------


def weigh(
    model: nn.Module,
    cost: "str | Cost | Mapping[str, float]",
    calibration: Inputs | None = None,
    arch: str | ArchConfig = "ulx3s-85f",
    *,
    unit: float | None = None,
    **options: Any,
) -> float:
    """Sets the weight of each layer's penalty (`SparseActivation.cost_weight`) in place to what its events cost.

    Parameters
    ----------
    cost : "uniform" (1 each), "fanout" (products that an event enters, `sordino.nn.fan_out`), "cycles" (measured by
        `sordino.cost` with `options`), a `Cost`, or a weight by module path (a path that is left out gets 0)
    calibration : as for `cost`; not needed for "uniform", or weights and `unit`
    unit : what the weights are divided by. None: such that a mean event weighs 1 (mean over the non-zero activations of
        the layers with a method, on the first 256 of `calibration`), so that one strength means as much under every `cost`

    Returns the unit, to be given when weights are measured again: cost that falls then lowers the penalty.
    Raises `InputError` for an unknown cost, path, or weights that are not finite or negative.
    """
    layers = {name: m for name, m in sites(model) if isinstance(m, SparseActivation)}
    if cost == "uniform":
        weights = dict.fromkeys(layers, 1.0)
    elif isinstance(cost, str):
        if cost not in COSTS:
            raise InputError(f"weigh: cost must be one of {', '.join(map(repr, COSTS))}, or weights by module path, not {cost!r}")
        if calibration is None:
            raise InputError(f"weigh: cost={cost!r} needs calibration, the model's typical inputs")
        if cost == "fanout":
            weights = {n: float(w) for n, w in fan_out(model, *first(calibration, 1)).items()}
        else:
            weights = measure(model, calibration, arch, **options).weights
    else:
        weights = {n: float(w) for n, w in (cost.weights if isinstance(cost, Cost) else cost).items()}
    if isinstance(cost, str | Cost):  # these know of activations without a method too
        weights = {n: w for n, w in weights.items() if n in layers or n not in dict(sites(model))}
    for name, w in weights.items():
        if name not in layers:
            raise InputError(f"weigh: {name!r} is no layer of a sparsity method; there are {', '.join(layers) or 'none'}")
        if not 0 <= w < float("inf"):
            raise InputError(f"weigh: the weight of {name!r} must be finite and not negative, not {w!r}")
    if unit is None:
        unit = 1.0 if calibration is None else _mean_event(model, first(calibration, CALIBRATION), layers, weights)
    for name, m in layers.items():
        m.cost_weight = weights.get(name, 0.0) / unit
    return unit


measure = cost


def _mean_event(model: nn.Module, x: Inputs, layers: Collection[str], weights: Mapping[str, float]) -> float:
    """The mean weight of a non-zero activation of `layers`."""
    counts = {name: n for name, (n, _) in density(model, x).items() if name in layers}
    total = sum(counts.values())
    return sum(n * weights.get(name, 0.0) for name, n in counts.items()) / total or 1.0 if total else 1.0


class CostWeights:
    """For `sordino.train.fit(before_epoch=...)`: measures the events' cost anew, every so many epochs.

    Parameters
    ----------
    cost : as for `weigh`; "uniform" and "fanout" do not change and are set once
    calibration, arch, options : as for `weigh`
    every : epochs from one measurement to the next; the first is before the first epoch

    The unit of the weights is that of the first measurement, so a layer whose events become cheap is
    penalised less. `measured` holds the weights of every measurement as (epoch, weight by module path).
    Raises `InputError` for `every` below 1, and what `weigh` raises.
    """

    def __init__(
        self,
        calibration: Inputs,
        cost: "str | Mapping[str, float]" = "cycles",
        arch: str | ArchConfig = "ulx3s-85f",
        every: int = 1,
        **options: Any,
    ):
        if every < 1:
            raise InputError(f"CostWeights: every must be at least 1, not {every!r}")
        self.calibration, self.cost, self.arch, self.every, self.options = calibration, cost, arch, every, options
        self.unit: float | None = None
        self.measured: list[tuple[int, dict[str, float]]] = []

    def __call__(self, model: nn.Module, epoch: int) -> None:
        if (epoch % self.every and self.measured) or (self.cost != "cycles" and self.measured):
            return
        with torch.random.fork_rng(devices=[]):  # measuring must not change what is trained
            self.unit = weigh(model, self.cost, self.calibration, self.arch, unit=self.unit, **self.options)
        self.measured.append((epoch, {n: m.cost_weight for n, m in sites(model) if isinstance(m, SparseActivation)}))

    def state_dict(self) -> dict[str, Any]:
        return {"unit": self.unit, "measured": [[epoch, dict(w)] for epoch, w in self.measured]}

    def load_state_dict(self, model: nn.Module, state: dict[str, Any]) -> None:
        self.unit, self.measured = state["unit"], [(epoch, dict(w)) for epoch, w in state["measured"]]
        if self.measured:
            for name, module in sites(model):
                if isinstance(module, SparseActivation):
                    module.cost_weight = self.measured[-1][1][name]
