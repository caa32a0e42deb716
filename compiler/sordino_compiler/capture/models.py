"""What users hand over as a model: the `torch.nn.Module` in it, or an error that says what was given and what to give instead."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from sordino_hw.spec.errors import InputError

__all__ = ["FunctionModel", "as_module"]


class FunctionModel(nn.Module):
    """A function as a module. The modules that the function refers to are its children, so their weights have names."""

    def __init__(self, function: Callable, modules: Mapping[str, nn.Module]):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def as_module(model: Any) -> nn.Module:
    """The module of a user's model.

    A module is itself. `ExportedProgram` gives its module; `torch.compile`, `DataParallel`, `DistributedDataParallel` and
    `AveragedModel` give what they wrap; a function becomes a `FunctionModel`. Raises `InputError` for anything else, for
    TorchScript, for layers that are quantised already, and for parameters without values.
    """
    if isinstance(model, ExportedProgram):
        model = model.module(check_guards=False)
        model._forward_pre_hooks.clear()  # they hold to the batch of the export; what it fixes in the graph is found when it is called
    elif not isinstance(model, nn.Module):
        model = _from_callable(model)
    while (inner := _wrapped(model)) is not None:
        model = inner
    _refuse_scripts(model)
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        raise InputError(
            f"{type(model).__name__} has no forward method, so it cannot be called. "
            "Give the module that is called on an input; layers in an nn.ModuleList are called by the forward of the module around it."
        )
    _refuse_without_values(model)
    return model


def _wrapped(model: nn.Module) -> nn.Module | None:
    """What a wrapper of PyTorch wraps, None for other modules."""
    inner = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(inner, nn.Module):
        return inner
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    return model.module if isinstance(model, wrappers) else None


def _from_callable(model: Any) -> nn.Module:
    """A function, bound method or other callable as a module. Raises `InputError` for what is no model."""
    if (problem := _no_model(model)) is not None:
        raise InputError(problem)
    function = model
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(function, "__name__", "") in ("forward", "__call__") and function is model:
        return owner
    return FunctionModel(model, _modules_of(model))


def _modules_of(function: Any) -> dict[str, nn.Module]:
    """The modules that a function refers to: as a closure, a global, a bound argument, or the object it is a method of."""
    found: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        found |= {f"argument_{i}": a for i, a in enumerate(function.args)} | function.keywords
        function = function.func
    found["owner"] = getattr(function, "__self__", None)
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(plain):
        names = inspect.getclosurevars(plain)
        found |= dict(names.globals) | dict(names.nonlocals)
    elif not inspect.isroutine(plain):  # an object with __call__
        found |= getattr(plain, "__dict__", {})
    return {name: m for name, m in found.items() if isinstance(m, nn.Module)}


def _no_model(given: Any) -> str | None:
    """Why `given` is no model, and what to give; None for a function."""
    kind = type(given).__name__
    if given is None:
        return "the model is None. Give a torch.nn.Module; a function that builds one must return it."
    if isinstance(given, type) and issubclass(given, nn.Module):
        return f"the model is the class {given.__name__}, not an instance of it. Give {given.__name__}(...), with trained weights loaded."
    if isinstance(given, str | os.PathLike):
        return (
            f"the model is the path {os.fspath(given)!r}. Build the network, and load the file's weights into it: "
            "model.load_state_dict(torch.load(path, weights_only=True)); for an ONNX file, give sordino.load_onnx(path)."
        )
    if isinstance(given, Mapping):
        if given and all(isinstance(v, Tensor) for v in given.values()):
            return f"the model is a state dict of {len(given)} tensors, without a network. Build the network, call its load_state_dict with it, and give the network."
        return f"the model is a {kind}, probably a checkpoint. Build the network, load the weights in it with load_state_dict, and give the network."
    if isinstance(given, torch.optim.Optimizer):
        return f"the model is an optimizer ({kind}). Give the torch.nn.Module whose parameters it trains."
    if isinstance(given, Tensor):
        return "the model is a tensor; the model comes first, then the example or calibration data. Give a torch.nn.Module."
    if hasattr(given, "graph") and hasattr(given, "check_inputs"):
        return "the model is quantised already. Compile it: sordino.compile(quantised)."
    if not callable(given) or isinstance(given, type):
        return f"the model is a {kind}. Give a torch.nn.Module, a torch.export.ExportedProgram, or a function of tensors."
    return None


def _refuse_scripts(model: nn.Module) -> None:
    for path, m in model.named_modules():
        where = f" at {path!r}" if path else ""
        if isinstance(m, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            raise InputError(
                f"the model is TorchScript ({type(m).__name__}{where}), which cannot be exported as a graph. Give the Python module that it was "
                "scripted or traced from, with the weights of its state_dict."
            )
        home = type(m).__module__
        if home.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise InputError(
                f"the model is quantised already: layer {path!r} is {home}.{type(m).__name__}. Give the float model that it was made of; "
                "sordino.quantize quantises it for the array."
            )


def _refuse_without_values(model: nn.Module) -> None:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if lazy := [name for name, t in tensors if is_lazy(t)]:
        raise InputError(
            f"the model is not initialised: {_some(lazy)} have no shape yet (lazy layers). Call it once, model(example), and load the trained weights."
        )
    if empty := [name for name, t in tensors if t.is_meta]:
        raise InputError(
            f"the model has no weights: {_some(empty)} are on the device meta. Give them values with model.to_empty(device='cpu') and "
            "model.load_state_dict(weights), or model.load_state_dict(weights, assign=True)."
        )


def _some(names: list[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
