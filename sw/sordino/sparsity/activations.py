"""Which activations a method can take the place of: modules, and calls of functions as the module that they equal."""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

from ..nn.base import SparseActivation, rectifies

__all__ = ["SMOOTH", "Replace", "equal_module", "kind_of", "requested"]

SMOOTH: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
}
"""Activations that are rarely zero, by the name that `replace` takes: replacing them changes the function."""

_OTHERS = (nn.ELU, nn.CELU, nn.SELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.RReLU)

How = Literal["now", "blend"]
Replace = str | list[str] | tuple[str, ...] | Mapping[str, How | None]
"""Names of `SMOOTH`, "all", or patterns of module paths; a mapping says how: "now", "blend", or None to leave it."""


def kind_of(module: nn.Module) -> str | None:
    """What activation a module is, such as "relu6" or "silu"; the method's name of a method's layer; None for other modules."""
    if isinstance(module, SparseActivation):
        return module.method
    for name, cls in SMOOTH.items():
        if isinstance(module, cls):
            return name
    return type(module).__name__.lower() if rectifies(module) or isinstance(module, _OTHERS) else None


def requested(replace: Replace | None, kind: str, path: str) -> How | None:
    """How the activation at `path` is replaced on request. A path or pattern goes before a kind, and this before "all"."""
    choices: Mapping[str, How | None] = (
        replace if isinstance(replace, Mapping) else dict.fromkeys([replace] if isinstance(replace, str) else replace or (), "now")
    )
    for key, how in choices.items():
        if how not in ("now", "blend", None):
            raise InputError(f"sparsify: replace={{{key!r}: ...}} must be 'now', 'blend' or None, not {how!r}")
    patterns = [k for k in choices if k not in SMOOTH and k != "all" and fnmatchcase(path, k)]
    for key in (path, *patterns, kind, "all"):
        if key in choices:
            return choices[key]
    return None


def equal_module(function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> tuple[str, nn.Module | None] | None:
    """(name, module) of the activation that a call computes from its first argument; None if the call is no activation.

    The module is None where it would need the caller's parameters (`prelu`).
    """
    name = getattr(function, "__name__", "").rstrip("_")
    read = _CALLS.get(name)
    x = args[0] if args else kwargs.get("input")
    if read is None or not isinstance(x, Tensor) or not torch.is_floating_point(x):
        return None
    if name == "prelu":
        return name, None
    module = read(args[1:], kwargs)
    return None if module is None else (name, module)


def _argument(args: tuple, kwargs: Mapping[str, Any], index: int, name: str, default: Any) -> Any:
    return kwargs.get(name, args[index] if len(args) > index else default)


def _clamp(args: tuple, kwargs: Mapping[str, Any], low: str = "min", high: str = "max", defaults: tuple = (None, None)):
    lo, hi = (_argument(args, kwargs, i, name, defaults[i]) for i, name in enumerate((low, high)))
    hi = math.inf if hi is None else hi
    if not isinstance(lo, int | float) or not isinstance(hi, int | float) or lo != 0 or not hi > 0:
        return None
    return nn.ReLU() if hi == math.inf else nn.Hardtanh(0.0, float(hi))


_CALLS: dict[str, Callable[[tuple, Mapping[str, Any]], nn.Module | None]] = {
    "relu": lambda a, k: nn.ReLU(),
    "relu6": lambda a, k: nn.ReLU6(),
    "hardtanh": lambda a, k: _clamp(a, k, "min_val", "max_val", (-1.0, 1.0)),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda a, k: _clamp((_argument(a, k, 0, "min", None),), {}),
    "silu": lambda a, k: nn.SiLU(),
    "hardswish": lambda a, k: nn.Hardswish(),
    "gelu": lambda a, k: nn.GELU(_argument(a, k, 0, "approximate", "none")),
    "leaky_relu": lambda a, k: nn.LeakyReLU(_argument(a, k, 0, "negative_slope", 0.01)),
    "prelu": lambda a, k: None,
}
