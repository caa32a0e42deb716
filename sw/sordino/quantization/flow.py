"""`quantize`, `prepare_qat` and `finish_qat`: torchao's PT2E flow with our own quantizer."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sordino_compiler.capture import Call, as_module, call_of
from sordino_compiler.capture.norms import fold_norms, freeze
from sordino_compiler.edges import Cut
from sordino_compiler.fx.modules import shallow_copy
from sordino_compiler.fx.nodes import constant
from sordino_compiler.ops.lowering import threshold_steps
from sordino_compiler.plan import Plan
from sordino_hw.spec.arch import ArchConfig, preset
from sordino_hw.spec.errors import InputError

from ._torchao import convert_pt2e, prepare_pt2e
from .fidelity import FloatReference
from .model import QuantizedModel, check_batch
from .observers import METHODS, ActivationQuantizer, WeightQuantizer
from .quantizer import SordinoQuantizer, link
from .remarks import warn_of_calibration, warn_of_result

__all__ = ["quantize"]

Calibration = Tensor | np.ndarray | Iterable


def quantize(
    model: Any,
    calibration: Calibration,
    arch: str | ArchConfig = "ulx3s-85f",
    *,
    method: str = "mse",
    quantile: float = 0.9999,
    batch_size: int = 64,
    progress: bool = False,
) -> QuantizedModel:
    """Post-training quantisation.

    Parameters
    ----------
    model : nn.Module, ExportedProgram or function
        In training or evaluation mode, of any floating-point precision, also in wrappers of PyTorch; it is not changed.
    calibration : tensor or array (N, C, H, W); or an iterable of batches
        Typical inputs; some hundred are enough. A batch may be a tensor or array, a tuple or list whose first items are the
        inputs (labels behind them are ignored), or a dict by argument name or of what forward reads; so a DataLoader or a
        data set will do. Images without the batch dimension are taken one by one. Integers are taken as numbers: preprocess images
        as the model wants them.
    arch : str or ArchConfig
        Decides the width of activations and of the requantiser's mantissa.
    method : str
        How far a tensor's scale reaches: `mse`, `percentile` (with `quantile`) or `minmax`. See `ActivationQuantizer`.
    progress : bool
        Shows a progress bar while calibrating.

    Raises `InputError` for empty, malformed or non-finite calibration data and for activations that are not finite, and
    `CompileError` for a model that the array cannot run, naming every operator at fault, and for parameters that are not finite.
    Warns (`QuantizationWarning`) of calibration data that says little about the model's range, and where some of it, run through
    the result, falls away from the float module, naming the first layer; `sordino.compare(model, quantised, x)` shows all layers.
    """
    arch = preset(arch)
    if method not in METHODS:
        raise InputError(f"unknown calibration method {method!r}: choose one of {', '.join(METHODS)}.")
    model = as_module(model)
    call, example, batches = load(model, calibration, batch_size)
    reference = FloatReference(model, call, example, arch)
    module, _ = shallow_copy(reference.cut.core)
    fold_norms(module)
    freeze(module)
    batch = module.meta["batch"]
    quantizer = SordinoQuantizer(arch, method, quantile)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(module, quantizer)
        activations = link(prepared)
        switch(prepared, rounding=False, observing=True)
        observe(prepared, batches, batch, progress, reference.entering)
        quantised = finish(prepared, quantizer.plan, activations, arch, example, batch, type(model).__name__, reference.cut)
    warn_of_calibration(batches)
    warn_of_result(reference, quantised, batches)
    return quantised


def load(model: nn.Module, calibration: Calibration, size: int) -> tuple[Call, tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    """How the model is called, one example per input, and the checked batches."""
    items = iter([calibration] if isinstance(calibration, Tensor | np.ndarray | Mapping) else _items(calibration))
    first = next(items, None)
    if first is None or (isinstance(first, Tensor | np.ndarray) and np.ndim(first) and not len(first)):
        raise InputError(
            "the calibration set is empty. Pass a tensor (N, C, H, W) or batches of typical inputs; some hundred are enough."
        )
    call, inputs = call_of(model, first, "calibration batch 0", labels=True)
    example = tuple(t[:1].clone() for t in inputs)
    parts = chain([inputs], (call.inputs(b, f"calibration batch {i}") for i, b in enumerate(items, 1)))
    batches = [check_batch(b, example, f"calibration batch {i}") for i, b in enumerate(parts)]
    if call.unbatched:
        batches = [tuple(torch.cat(column) for column in zip(*batches, strict=True))]
    return call, example, [tuple(t[i : i + size] for t in b) for b in batches for i in range(0, len(b[0]), size)]


def _items(calibration: Any) -> Iterable:
    """The batches of an iterable, or the items of a data set."""
    if isinstance(calibration, str | bytes) or not (isinstance(calibration, Iterable) or hasattr(calibration, "__getitem__")):
        raise InputError(f"calibration must be a tensor, an array or an iterable of batches, found {type(calibration).__name__}.")
    if isinstance(calibration, tuple) and calibration and all(isinstance(n, int) for n in calibration):
        raise InputError(f"calibration: {calibration} is a shape, without values. Pass a tensor or batches of typical inputs.")
    if isinstance(calibration, Iterable):
        return calibration
    return (calibration[i] for i in range(len(calibration)))


def observe(
    prepared: nn.Module, batches: list[tuple[Tensor, ...]], batch: int | None, progress: bool, entering: Callable[..., tuple]
) -> None:
    """Runs the batches through a prepared graph, under a progress bar. `entering` leads from the model's inputs to the graph's."""
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("calibrating", total=sum(len(b[0]) for b in batches))
        for b in batches:
            for part in [b] if batch is None else [tuple(t[i : i + 1] for t in b) for i in range(len(b[0]))]:
                prepared(*entering(*part))
            bar.advance(task, len(b[0]))


def finish(prepared: GraphModule, plan: Plan | None, activations, arch, example, batch, name: str, cut: Cut) -> QuantizedModel:
    """Converts a prepared graph whose observers have seen data."""
    assert plan is not None
    switch(prepared, rounding=False, observing=False)
    snap_scales(plan, activations, arch)
    snap_thresholds(prepared, plan, activations)
    converted = convert_pt2e(prepared)
    converted.meta["batch"] = batch
    return QuantizedModel(converted, arch, example, name, cut)


def switch(module: nn.Module, rounding: bool, observing: bool) -> None:
    for m in module.modules():
        if isinstance(m, ActivationQuantizer | WeightQuantizer):
            m.enable_fake_quant(rounding)
            m.enable_observer(observing)


def snap_scales(plan: Plan, activations: dict[str, ActivationQuantizer], arch: ArchConfig) -> None:
    """Moves the scales of layers that suit the array better with another one nearby, such as averages and products."""
    roots = plan.roots()

    def scale(node: Node) -> float:
        return float(activations[node.name].calculate_qparams()[0])

    for layer in plan.layers:
        target = layer.pre if layer.table_is_fused and layer.pre else layer.out
        if not layer.inputs or not layer.own_scale or (target is layer.out and roots[target] is not target):
            continue
        snapped = layer.snapped_scale([scale(roots[n]) for n in layer.inputs], scale(target), arch)
        if snapped is not None:
            activations[target.name].fix(snapped)


def snap_thresholds(prepared: GraphModule, plan: Plan, activations: dict[str, ActivationQuantizer]) -> None:
    """Moves every threshold T to the nearest (n - 1/2) * scale, so that it equals "integers below n are silent"."""
    roots = plan.roots()
    by_name = {n.name: n for n in prepared.graph.nodes}
    for layer in plan.layers:
        if layer.activation.threshold is None:
            continue
        quantizer = activations[roots[layer.out].name]
        scale = float(quantizer.calculate_qparams()[0])
        node = by_name[layer.activation.threshold.name]
        old = node.args[1]
        steps = threshold_steps(constant(prepared, old).double().numpy(), scale, quantizer.bounds()[1])
        snapped = torch.as_tensor(np.maximum((steps - 0.5) * scale, 0)).float()
        if isinstance(old, Node):
            name = f"_threshold_{node.name}"
            prepared.register_buffer(name, snapped)
            with prepared.graph.inserting_before(node):
                node.update_arg(1, prepared.graph.get_attr(name))
        else:
            node.update_arg(1, float(snapped))
    prepared.recompile()
