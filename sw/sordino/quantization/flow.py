"""`quantize`, `prepare_qat` and `finish_qat`: torchao's PT2E flow with our own quantizer."""

import inspect
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from sordino_compiler.capture import examples
from sordino_compiler.capture.norms import fold_norms, freeze
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
    model: nn.Module,
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
    model : nn.Module
        In training or evaluation mode; it is not changed.
    calibration : tensor or array (N, C, H, W); or an iterable of batches
        Typical inputs; some hundred are enough. A batch may be a tensor, or a tuple or list whose first items are the
        inputs (labels behind them are ignored), so a DataLoader will do.
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
    example, batches = load(model, calibration, batch_size)
    reference = FloatReference(model, example)
    module, _ = shallow_copy(reference.module)
    fold_norms(module)
    freeze(module)
    batch = module.meta["batch"]
    quantizer = SordinoQuantizer(arch, method, quantile)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(module, quantizer)
        activations = link(prepared)
        switch(prepared, rounding=False, observing=True)
        observe(prepared, batches, batch, progress)
        quantised = finish(prepared, quantizer.plan, activations, arch, example, batch, type(model).__name__)
    warn_of_calibration(batches)
    warn_of_result(reference, quantised, batches)
    return quantised


def load(model: nn.Module, calibration: Calibration, size: int) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, ...]]]:
    """One example per input, and the checked batches."""
    batches = list(_batches(calibration, size))
    if not batches:
        raise InputError(
            "the calibration set is empty. Pass a tensor (N, C, H, W) or batches of typical inputs; some hundred are enough."
        )
    count = _arguments(model)
    head = _inputs(batches[0], count)
    if not head or not all(isinstance(t, Tensor | np.ndarray) for t in head):
        raise InputError(
            f"calibration batch 0 holds {', '.join(type(t).__name__ for t in head) or 'nothing'}; "
            "expected a tensor, or a tuple that starts with the model's inputs."
        )
    example = examples(tuple(torch.as_tensor(t)[:1].detach().float() for t in head))
    return example, [check_batch(_inputs(b, count), example, f"calibration batch {i}") for i, b in enumerate(batches)]


def observe(prepared: GraphModule, batches: list[tuple[Tensor, ...]], batch: int | None, progress: bool) -> None:
    """Runs the batches through a prepared graph, under a progress bar."""
    with Progress(transient=True, disable=not progress) as bar:
        task = bar.add_task("calibrating", total=sum(len(b[0]) for b in batches))
        for b in batches:
            for part in [b] if batch is None else [tuple(t[i : i + 1] for t in b) for i in range(len(b[0]))]:
                prepared(*part)
            bar.advance(task, len(b[0]))


def finish(prepared: GraphModule, plan: Plan | None, activations, arch, example, batch, name: str) -> QuantizedModel:
    """Converts a prepared graph whose observers have seen data."""
    assert plan is not None
    switch(prepared, rounding=False, observing=False)
    snap_scales(plan, activations, arch)
    snap_thresholds(prepared, plan, activations)
    converted = convert_pt2e(prepared)
    converted.meta["batch"] = batch
    return QuantizedModel(converted, arch, example, name)


def switch(module: nn.Module, rounding: bool, observing: bool) -> None:
    for m in module.modules():
        if isinstance(m, ActivationQuantizer | WeightQuantizer):
            m.enable_fake_quant(rounding)
            m.enable_observer(observing)


def snap_scales(plan: Plan, activations: dict[str, ActivationQuantizer], arch: ArchConfig) -> None:
    """Moves the scales of layers that suit the array better with another one nearby, such as averages."""
    roots = plan.roots()
    for layer in plan.layers:
        if not layer.inputs or not layer.own_scale or roots[layer.out] is not layer.out:
            continue
        source, target = activations[roots[layer.inputs[0]].name], activations[layer.out.name]
        snapped = layer.snapped_scale(float(source.calculate_qparams()[0]), float(target.calculate_qparams()[0]), arch)
        if snapped is not None:
            target.fix(snapped)


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


def _batches(calibration: Calibration, size: int) -> Iterator:
    """Batches of a tensor, an array, or an iterable of batches."""
    if isinstance(calibration, Tensor | np.ndarray):
        yield from (calibration[i : i + size] for i in range(0, len(calibration), size))
    elif isinstance(calibration, Iterable):
        yield from calibration
    else:
        raise InputError(f"calibration must be a tensor, an array or an iterable of batches, found {type(calibration).__name__}.")


def _inputs(batch, count: int) -> tuple:
    """The model's inputs of one batch; what follows them, labels for instance, is left out."""
    return tuple(batch)[:count] if isinstance(batch, list | tuple) else (batch,)


def _arguments(model: nn.Module) -> int:
    """Tensors that forward must be given."""
    parameters = inspect.signature(model.forward).parameters.values()
    return max(1, sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))
