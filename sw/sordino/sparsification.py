"""`sparsify`: puts a sparsity method in the place of a model's ReLUs."""

import ast
import copy
import inspect
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sordino_hw.arch import ArchConfig
from sordino_hw.errors import InputError

from .costs import Cost, weigh
from .nn.base import SparseActivation, layer_inputs, sites
from .nn.base import method as find_method

__all__ = ["calibrate", "functional_relus", "sparsify"]


def sparsify(
    model: nn.Module,
    method: str = "relu",
    calibration: Tensor | None = None,
    *,
    cost: str | Cost | Mapping[str, float] = "uniform",
    arch: str | ArchConfig = "ulx3s-85f",
    **options: Any,
) -> nn.Module:
    """A deep copy of `model` whose ReLU modules are layers of `method`; train it with `sordino.train.fit`.

    Parameters
    ----------
    model : any module whose activations are `nn.ReLU` modules; layers of another method are replaced too, so that a
        network trained with one method can be fine-tuned with another
    method : a name in `sordino.nn.METHODS`: "relu", "l1", "star"
    calibration : float tensor (N, ...), the model's input; layers with state that follows from data (the thresholds of
        STAR) set it from there
    cost : what weights each layer's penalty: "uniform", "fanout" (products that an event enters), "cycles" (measured on
        `arch` now; see `CostWeights` for measuring again while training), what `sordino.cost` returned, or a weight by
        module path. All but the first need `calibration`: it sets their unit, so that a mean event weighs 1
    arch : the architecture whose cycles count
    options : arguments of the layer class. A dict gives one value per module path, such as
        `strength={"relu1": 1e-3, "relu2": 1e-4}`; a path that is left out gets the default

    Raises `InputError` for an unknown method or option, for options out of range and for a model without ReLU modules.
    """
    layer = find_method(method)
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
    known = list(inspect.signature(layer).parameters)
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"sparsify: method {method!r} has no option {name!r}; its options are {', '.join(known) or 'none'} (and calibration)"
            )
        if isinstance(value, Mapping):
            for path in value:
                if path not in found:
                    raise InputError(f"sparsify: {name} names {path!r}, which is no ReLU; there are {', '.join(found)}")
    new: dict[int, SparseActivation] = {}
    for path, old in sites(model):
        picked = {
            k: v[path] if isinstance(v, Mapping) else v for k, v in options.items() if not isinstance(v, Mapping) or path in v
        }
        new[id(old)] = layer(**picked).train(old.training)
    model = _replace(model, new)
    if calibration is not None:
        calibrate(model, calibration)
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


@torch.no_grad()
def calibrate(model: nn.Module, x: Tensor, batch_size: int = 256) -> None:
    """Runs `model` on `x` (N, ...) in evaluation mode and lets every layer of a method set its state from its input.

    One pass serves all layers, so each sees what the layers before it gave with their present state.
    """
    if not len(x):
        raise InputError("calibrate: the calibration set is empty; give at least one input, better a few hundred")
    for layer, inputs in layer_inputs(model, x, batch_size).items():
        layer.calibrate(inputs)


def functional_relus(model: nn.Module) -> list[str]:
    """Calls of `relu` as a function or method in the forward methods of `model`'s modules, as `file:line`."""
    found = []
    own = {
        type(m): None
        for m in model.modules()
        if not isinstance(m, SparseActivation) and not type(m).__module__.startswith("torch.")
    }
    for cls in own:
        try:
            source, first = inspect.getsourcelines(cls)
            tree = ast.parse(textwrap.dedent("".join(source)))
            file = inspect.getsourcefile(cls)
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                f = node.func
                name = f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""
                if name in ("relu", "relu_") and not (isinstance(f, ast.Attribute) and _is_self(f.value)):
                    found.append(f"{file}:{first + node.lineno - 1}")
    return found


def _is_self(node: ast.expr) -> bool:
    """`self.relu(x)` and `self.block.relu(x)` are modules."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "self"
