"""One trial: train, sparsify, quantise, compile, and measure on the integer models."""

import copy
import functools
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sordino_compiler.fx.source import module_path
from sordino_compiler.graph import Value
from sordino_hw.spec.errors import InputError

from ...data import Split
from ...nn import CATS, METHODS, STAR, Clips, density
from ...nn.temporal import Temporal
from ...quantization import QuantizedModel, quantize
from ...runtime.accelerator import Accelerator
from ...runtime.compile import compile
from ...sparsity import calibrate, sparsify
from ...sparsity.cost import CostWeights
from ...train import accuracy, fit
from ..recipe import Phase, Search, train_sparse
from .delta import DeltaRun, delta_run
from .ladders import ladder
from .plan import Point, Settings
from .tasks import STUDY_TASKS, StudyTask

__all__ = ["plain_network", "run_trial"]

CALIBRATION = 256

RATES = {"dal": 1e-3}
"""Learning rate by method, else 2e-3. Adam moves a step of DAL by the rate, however small its gradient is."""


def run_trial(settings: Settings, point: Point) -> dict[str, Any]:
    """Trains and measures one point, on one thread; the figures are described in docs/how-to/compare-methods.md.

    Plain ReLU and every method start from the same plain network of the seed, and are trained for equally many more
    epochs. A method that keeps its zeros without a penalty (STAR) spends the last third of them without penalty, DAL
    with a hundredth of it; STAR's thresholds are then raised as far as half of `settings.budget` allows on validation
    data. FATReLU is put into the network that plain ReLU ends with, and not trained.

    Deterministic. Raises what `sparsify`, `fit`, `quantize` and `compile` raise.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    try:
        task, data = STUDY_TASKS[settings.task], _data(settings)
        model = _sparse(task, data, settings, point)
        return {**_measure(task, data, settings, model), "seconds": time.perf_counter() - begin}
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _data(settings: Settings) -> Split:
    data = STUDY_TASKS[settings.task].data()
    x, y = data.train
    return Split((x[: settings.train_images], y[: settings.train_images]), data.validation, data.test)


@functools.lru_cache(maxsize=8)
def plain_network(settings: Settings, seed: int) -> nn.Module:
    """The network of a seed that all methods start from, trained with plain ReLU. It is shared: copy it to change it."""
    task, data = STUDY_TASKS[settings.task], _data(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build()
    _fit(task, model, data, settings, settings.plain_epochs, seed, lr=4e-3)
    return model


@functools.lru_cache(maxsize=8)
def _trained_relu(settings: Settings, seed: int) -> nn.Module:
    task, data = STUDY_TASKS[settings.task], _data(settings)
    model = sparsify(plain_network(settings, seed), "relu")
    _fit(task, model, data, settings, settings.sparse_epochs, seed)
    return model


def _fit(task: StudyTask, model: nn.Module, data: Split, settings: Settings, epochs: int, seed: int, **options: Any) -> None:
    options = {"lr": 2e-3, **options}
    network = Clips(model) if task.clips else model
    x, y = data.validation
    fit(
        network,
        data.train,
        (x[:16], y[:16]),  # nothing is chosen by epoch, so a few will do
        epochs,
        batch_size=settings.batch_size,
        augment=task.augment,
        seed=seed,
        progress=False,
        **options,
    )


def _sparse(task: StudyTask, data: Split, settings: Settings, point: Point) -> nn.Module:
    if point.method == "relu":
        return _trained_relu(settings, point.seed)
    options, frames = ladder(point.method, point.strength), _frames(task, data.train[0])[:1024]
    if point.method == "fatrelu":
        return sparsify(_trained_relu(settings, point.seed), "fatrelu", calibration=frames, **options)
    plain = plain_network(settings, point.seed)
    if point.method == "wta":  # the thresholds that the array uses follow the training
        options["schedule"] = max(1, len(data.train[0]) // settings.batch_size * settings.sparse_epochs // 2)
    if task.clips and issubclass(METHODS[point.method], Temporal):
        if point.cost == "cycles":
            raise InputError(
                f"study: what a difference of {point.method} costs cannot be measured, since the array runs frame by frame. "
                "Use the cost uniform or fanout."
            )
        plain, options = _with_input(plain, point.method, options)
    model = sparsify(plain, point.method, calibration=frames, **options)
    hook = None
    if point.cost != "uniform":
        kind = _ClipWeights if task.clips else CostWeights
        measured = {"share": settings.share} if point.cost == "cycles" else {}
        hook = kind(frames, point.cost, settings.arch, every=settings.every, **measured)

    def train(phase: Phase) -> None:
        first, rate = phase.name == "sparse", RATES.get(point.method, 2e-3)
        options = {"before_epoch": hook, "lr": rate} if first else {"penalty_weight": phase.penalty_weight, "lr": rate / 2}
        _fit(task, model, data, settings, phase.epochs, point.seed + (not first), **options)

    recovery = settings.sparse_epochs // 3
    rest = 0.01 if point.method == "dal" else 0.0  # as published
    search = functools.partial(_search, task, data, settings, point, model)
    train_sparse(model, train, settings.sparse_epochs - recovery, recovery, search, rest=rest)
    if point.method == "wta":
        calibrate(model, frames)
    return model


def _with_input(plain: nn.Module, method: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The network with a ReLU on its pixels, which a temporal method replaces too. Pixels are not negative, so a ReLU changes nothing."""
    plain = copy.deepcopy(plain)
    plain.input = nn.ReLU()
    return plain, options | ({"per": {"input": "layer"}, "rectify": {"input": False}} if method == "dal" else {})


class _ClipWeights(CostWeights):
    """Measures the network of single frames inside `Clips`."""

    def __call__(self, model: nn.Module, epoch: int) -> None:
        assert isinstance(model, Clips)
        super().__call__(model.model, epoch)


def _search(task: StudyTask, data: Split, settings: Settings, point: Point, model: nn.Module) -> Search:
    def score(m: nn.Module) -> float:
        return accuracy(Clips(m) if task.clips else m, data.validation)

    floor = score(_trained_relu(settings, point.seed)) - settings.budget / 2
    weights = {n: m.cost_weight for n, m in model.named_modules() if isinstance(m, STAR)}
    return Search(_frames(task, data.validation[0])[:256], score, floor, weights)


def _frames(task: StudyTask, x: Tensor) -> Tensor:
    return x.flatten(0, 1) if task.clips else x


def _measure(task: StudyTask, data: Split, settings: Settings, model: nn.Module) -> dict[str, Any]:
    model.eval()
    network = Clips(model) if task.clips else model
    quantised = quantize(_alone(model), _frames(task, data.train[0])[:CALIBRATION], settings.arch)
    program = compile(quantised)
    golden = Accelerator(program)

    def integer(part: tuple[Tensor, Tensor]) -> float:
        x, y = part
        logits = golden.integers(golden.quantise(program.inputs[0], _frames(task, x)))
        return _hits(logits.reshape(*x.shape[: 1 + task.clips], -1), y)

    figures: dict[str, Any] = {
        "accuracy": {
            "float_validation": accuracy(network, data.validation),
            "float_test": accuracy(network, data.test),
            "integer_validation": integer(data.validation),
            "integer_test": integer(data.test),
        }
    }
    x = _frames(task, data.test[0])
    counts = {name: n for name, n in density(model, x).items() if name != "input"}
    nonzero, size = sum(n for n, _ in counts.values()), sum(n for _, n in counts.values())
    if task.clips:
        figures["delta"] = _delta(model, quantised, data)
        figures["changes"] = figures["delta"]["later_events"]
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: settings.timing_images]
    timing = Accelerator(program, "timing")
    timing(x[chosen])
    stats = timing.stats
    return figures | {
        "density": nonzero / size,
        "nonzero": nonzero / len(x),
        "densities": {name: n / size for name, (n, size) in counts.items()},
        "integer_nonzero": stats.nonzero_activations,
        "events": stats.total.events,
        "cycles": stats.total.cycles,
        "layers": {layer.name: layer.cycles for layer in stats.layers},
    }


def _alone(model: nn.Module) -> nn.Module:
    """The network for single frames: without CATS's layer on the pixels, which changes nothing there."""
    if isinstance(getattr(model, "input", None), CATS):
        model = copy.deepcopy(model)
        model.input = nn.Identity()
    return model


def _delta(model: nn.Module, quantised: QuantizedModel, data: Split) -> dict[str, float]:
    """Accuracy and events of the quantised network if only changes between frames are sent; layers of CATS use their thresholds."""
    thresholds = {}
    for path, layer in model.named_modules():
        if isinstance(layer, CATS):
            value = quantised.inputs[0] if path == "input" else _value(quantised, path)
            thresholds[value.name] = max(1, math.ceil(float(layer.theta.detach().abs()) / value.scale))

    def run(part: tuple[Tensor, Tensor]) -> tuple[float, DeltaRun]:
        x, y = part
        inputs = quantised.quantise_inputs(x.flatten(0, 1))
        found = delta_run(quantised.graph, {n: v.reshape(*x.shape[:2], *v.shape[1:]) for n, v in inputs.items()}, thresholds)
        (logits,) = found.outputs.values()
        return _hits(logits.reshape(*x.shape[:2], -1), y), found

    (validation, _), (test, found) = run(data.validation), run(data.test)
    return {"validation": validation, "test": test, **found.totals()}


def _hits(logits: np.ndarray, y: Tensor) -> float:
    """Accuracy of integer logits [n, classes] or [n, time, classes]; the latter are summed over time. Of equal logits the first counts."""
    if logits.ndim == 3:
        logits = logits.sum(1)
    return float((logits.argmax(1) == y.numpy()).mean())


def _value(quantised: QuantizedModel, path: str) -> Value:
    (name,) = (n for n, layer in quantised.layers.items() if module_path(layer.out) == path)
    return quantised.graph.values[name]
