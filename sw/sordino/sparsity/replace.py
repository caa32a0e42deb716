"""`sparsify` itself, and the calibration of the layers it makes."""

import copy
import math
import warnings
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import InputError

from ..nn.base import Inputs, SparseActivation, first, layer_inputs, rectifies
from .activations import SMOOTH, Replace, kind_of, requested
from .assignment import Methods, assign
from .calls import own_modules, separate
from .cost import Cost, weigh
from .functional import functional_relus
from .summary import Left, Replaced, Sparsification

__all__ = ["calibrate", "sparsify"]


def sparsify(
    model: nn.Module,
    method: str | Methods = "relu",
    calibration: Inputs | None = None,
    *,
    replace: Replace | None = None,
    cost: str | Cost | Mapping[str, float] = "uniform",
    arch: str | ArchConfig = "ulx3s-85f",
    **options: Any,
) -> nn.Module:
    """A deep copy of `model` whose ReLUs are layers of a sparsity method; train it with `sordino.train.fit`.

    Replaced are ReLU, ReLU6 and Hardtanh from 0, as modules and, if there is `calibration`, as calls of functions (`F.relu`,
    `torch.relu`, `F.relu6`, `F.hardtanh`, `clamp(min=0)`); an upper bound is kept. One module in several places gets a
    layer for each. What was replaced, and what was left and why, is `model.sparsification`, whose `str` is a table.

    Parameters
    ----------
    model : any module; layers of another method are replaced too, so that a network trained with one method can be
        fine-tuned with another
    method : a name in `sordino.nn.METHODS`, such as "l1" or "star", for all layers; or a mapping that gives each its own:

            {"*": "l1", "stem.*": ("star", {"quantile": 0.5}), Bottleneck: "wta", "head.relu": None}

        A key is a pattern of module paths (as in `fnmatch`; `*` matches dots too) or a type, which stands for the
        activations of that type and those inside modules of that type. A value is a name, a name with options of
        its own, or None: the layer stays as it is, as does one that no key matches. The path itself goes before
        patterns and types, and these before "*"; two that match the same layer on the same level must agree
    calibration : float tensor (N, ...), the model's input, or a tuple of one for each of its inputs; layers with state that follows from data (the thresholds of
        STAR) set it from there. Layers that stay as they are keep theirs. The model is run on the first two of them to find calls of
        functions, and modules that one forward method calls several times: their layers are `relu_0`, `relu_1`, ... beside
        the caller's children, and `relu.0`, `relu.1`, ...
    replace : which other activations are replaced: "silu", "hardswish", "gelu", "leaky_relu", "prelu", "all", a pattern of module
        paths, or several of them. They change the function, so fine-tune. A mapping says how: {"silu": "blend"} lets them
        fade while `sordino.Blend` says so, "now" replaces at once, None leaves them
    cost : what weights each layer's penalty: "uniform", "fanout" (products that an event enters), "cycles" (measured on
        `arch` now; see `CostWeights` for measuring again while training), what `sordino.cost` returned, or a weight by
        module path. All but the first need `calibration`: it sets their unit, so that a mean event weighs 1
    arch : the architecture whose cycles count
    options : arguments of the layer classes, for each layer whose method has them and does not bring its own. A dict gives
        one value per module path, such as `strength={"relu1": 1e-3, "relu2": 1e-4}`; a path that is left out gets the
        default

    Raises `InputError` for an unknown method or option, for options out of range, for a model without an activation to
    replace, for keys of `method` or `replace` that match nothing or contradict each other, and for a network that reads what an
    in-place activation has overwritten. Warns of activations that it left without being told to.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"sparsify: layers are replaced in a torch.nn.Module; found {_kind(model)}. Give the module itself.")
    methods: Methods = method if isinstance(method, Mapping) else {"*": method}
    model = copy.deepcopy(model)
    separate(model)
    calls: list[Left] = []
    if calibration is None:
        calls = [Left(where, "relu", "found by running the model only; give calibration=") for where in functional_relus(model)]
    elif not len(calibration if isinstance(calibration, Tensor) else calibration[0]):
        raise InputError("calibrate: the calibration set is empty; give at least one input, better a few hundred")
    else:
        calls = [Left(*entry) for entry in own_modules(model, calibration, replace)]
    found, how, left = _candidates(model, replace)
    left += calls
    if not found:
        raise InputError(_nothing(left))
    new = assign(model, methods, options, list(found))
    replaced = []
    for path, layer in new.items():
        old = found[path]
        layer.train(old.training).bound = _bound(old)
        if how.get(path) == "blend":
            layer.fade_in(old)
        replaced.append(Replaced(path, str(kind_of(old)), layer.method, layer.bound, how.get(path) == "blend"))
    left += [Left(path, str(kind_of(m)), "no method was chosen for it") for path, m in found.items() if path not in new]
    model = _replace(model, {id(found[path]): layer for path, layer in new.items()})
    shapes = () if calibration is None else tuple(tuple(t.shape[1:]) for t in first(calibration, 1))
    model.sparsification = Sparsification(tuple(replaced), tuple(left), shapes)  # type: ignore[assignment]
    if named := [entry for entry in left if entry.reason != "no method was chosen for it"]:
        warnings.warn(_warning(len(replaced), named), stacklevel=2)
    if calibration is not None:
        _calibrate(model, calibration, set(new.values()))
    if cost != "uniform":
        weigh(model, cost, calibration, arch)
    return model


def _kind(given: Any) -> str:
    return f"the class {given.__name__}, not an instance" if isinstance(given, type) else f"a {type(given).__name__}"


def _candidates(model: nn.Module, replace: Replace | None) -> tuple[dict[str, nn.Module], dict[str, str], list[Left]]:
    """Activations that may be replaced, how those that were asked for are, and those that stay, by module path."""
    activations = {path: m for path, m in model.named_modules() if kind_of(m) is not None}
    inside = {id(child) for m in activations.values() for child in m.children()}  # what a layer has replaced gradually
    found: dict[str, nn.Module] = {}
    how: dict[str, str] = {}
    left: list[Left] = []
    for path, module in activations.items():
        kind = kind_of(module)
        if id(module) in inside or kind is None:
            continue
        if isinstance(module, SparseActivation) or rectifies(module):
            found[path] = module
        elif kind not in SMOOTH:
            left.append(Left(path, kind, "not a ReLU"))
        elif (wanted := requested(replace, kind, path)) is not None:
            found[path], how[path] = module, wanted
        else:
            left.append(Left(path, kind, f"not a ReLU; replace={kind!r} replaces it"))
    _check(replace, activations)
    return found, how, left


def _check(replace: Replace | None, activations: Mapping[str, nn.Module]) -> None:
    smooth = [path for path, m in activations.items() if kind_of(m) in SMOOTH]
    for key in [replace] if isinstance(replace, str) else replace or ():
        if key not in SMOOTH and key != "all" and not any(fnmatchcase(path, key) for path in smooth):
            raise InputError(
                f"sparsify: replace={key!r} is neither 'all' nor one of {', '.join(SMOOTH)}, and as a pattern it matches no such "
                f"activation; there are {', '.join(smooth) or 'none'}"
            )


def _bound(module: nn.Module) -> float | None:
    if isinstance(module, SparseActivation):
        return module.bound
    return float(module.max_val) if isinstance(module, nn.Hardtanh) and module.max_val < math.inf else None


def _nothing(left: list[Left]) -> str:
    """The message for a model without an activation to replace."""
    calls = [entry.path for entry in left if entry.reason.startswith("found by running")]
    if calls:
        return (
            f"sparsify: the model has no activation module to replace. The model calls ReLU as a function ({'; '.join(calls[:3])}). "
            "Give calibration=x, typical inputs: a run of the model shows the calls, and each gets its layer."
        )
    kinds = sorted({entry.was for entry in left if entry.was in SMOOTH})
    if kinds:
        names = ", ".join(map(repr, kinds))
        return (
            f"sparsify: the model has no ReLU to replace; its activations are {names}. Give replace=[{names}] to replace them, which "
            f'changes the function and wants fine-tuning; replace={{{kinds[0]!r}: "blend"}} with sordino.Blend does it gradually.'
        )
    return (
        "sparsify: the model has no activation to replace. Call a ReLU, ReLU6, clamp(min=0) or another activation in its forward "
        "method, and give calibration=x if it is a function."
    )


def _warning(count: int, left: list[Left]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in left:
        reasons.setdefault((entry.was, entry.reason), []).append(entry.path)
    parts = [
        f"{was} in {len(paths)} places ({', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}): {reason}"
        for (was, reason), paths in reasons.items()
    ]
    return f"sparsify replaced {count} activations and left {len(left)}: {'; '.join(parts)}."


def _replace(model: nn.Module, new: dict[int, SparseActivation]) -> nn.Module:
    """Swaps modules by identity."""
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
