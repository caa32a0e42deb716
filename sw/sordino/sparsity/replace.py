"""`sparsify` itself, and the calibration of the layers it makes."""

import copy
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from ..nn.base import Inputs, SparseActivation, layer_inputs, sites
from .assignment import Methods, assign
from .cost import Cost, weigh
from .functional import functional_relus

__all__ = ["calibrate", "sparsify"]


def sparsify(
    model: nn.Module,
    method: str | Methods = "relu",
    calibration: Inputs | None = None,
    *,
    cost: str | Cost | Mapping[str, float] = "uniform",
    arch: str | ArchConfig = "ulx3s-85f",
    **options: Any,
) -> nn.Module:
    """A deep copy of `model` whose ReLU modules are layers of a sparsity method; train it with `sordino.train.fit`.

    Parameters
    ----------
    model : any module whose activations are `nn.ReLU` modules; layers of another method are replaced too, so that a
        network trained with one method can be fine-tuned with another
    method : a name in `sordino.nn.METHODS`, such as "l1" or "star", for all layers; or a mapping that gives each its own:

            {"*": "l1", "stem.*": ("star", {"quantile": 0.5}), Bottleneck: "wta", "head.relu": None}

        A key is a pattern of module paths (as in `fnmatch`; `*` matches dots too) or a type, which stands for the
        activations of that type and those inside modules of that type. A value is a name, a name with options of
        its own, or None: the layer stays as it is, as does one that no key matches. The path itself goes before
        patterns and types, and these before "*"; two that match the same layer on the same level must agree
    calibration : float tensor (N, ...), the model's input, or a tuple of one for each of its inputs; layers with state that follows from data (the thresholds of
        STAR) set it from there. Layers that stay as they are keep theirs
    cost : what weights each layer's penalty: "uniform", "fanout" (products that an event enters), "cycles" (measured on
        `arch` now; see `CostWeights` for measuring again while training), what `sordino.cost` returned, or a weight by
        module path. All but the first need `calibration`: it sets their unit, so that a mean event weighs 1
    arch : the architecture whose cycles count
    options : arguments of the layer classes, for each layer whose method has them and does not bring its own. A dict gives
        one value per module path, such as `strength={"relu1": 1e-3, "relu2": 1e-4}`; a path that is left out gets the
        default

    Raises `InputError` for an unknown method or option, for options out of range, for a model without ReLU modules, and
    for keys of `method` that match nothing or contradict each other.
    """
    methods: Methods = method if isinstance(method, Mapping) else {"*": method}
    model = copy.deepcopy(model)
    found = dict(sites(model))
    functional = functional_relus(model)
    if not found:
        where = f" The model calls it as a function ({'; '.join(functional[:3])})." if functional else ""
        raise InputError(
            f"sparsify: the model has no nn.ReLU module to replace.{where} Make each activation a module: self.relu1 = nn.ReLU() "
            "in __init__, and self.relu1(x) in forward."
        )
    if functional:
        warnings.warn(
            f"sparsify replaces modules only and leaves these calls as they are: {'; '.join(functional)}. Use nn.ReLU modules.",
            stacklevel=2,
        )
    new = assign(model, methods, options)
    model = _replace(model, {id(found[path]): layer.train(found[path].training) for path, layer in new.items()})
    if calibration is not None:
        _calibrate(model, calibration, set(new.values()))
    if cost != "uniform":
        weigh(model, cost, calibration, arch)
    return model


def _replace(model: nn.Module, new: dict[int, SparseActivation]) -> nn.Module:
    """Swaps modules by identity, so that a shared ReLU stays shared."""
    if id(model) in new:
        return new[id(model)]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in new:
                setattr(parent, name, new[id(child)])
    return model


def calibrate(model: nn.Module, x: Inputs, batch_size: int = 256) -> None:
    """Runs `model` on `x` in evaluation mode and lets every layer of a method set its state from its input.

    One pass serves all layers, so each sees what the layers before it gave with their present state.
    """
    _calibrate(model, x, {m for m in model.modules() if isinstance(m, SparseActivation)}, batch_size)


@torch.no_grad()
def _calibrate(model: nn.Module, x: Inputs, layers: Collection[SparseActivation], batch_size: int = 256) -> None:
    if not len(x if isinstance(x, Tensor) else x[0]):
        raise InputError("calibrate: the calibration set is empty; give at least one input, better a few hundred")
    for layer, inputs in layer_inputs(model, x, batch_size).items():
        if layer in layers:
            layer.calibrate(inputs)
