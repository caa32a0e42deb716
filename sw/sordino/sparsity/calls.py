"""Gives each call of an activation a module of its own, where the model calls a function, or one module several times."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sordino_hw.spec.errors import InputError

from ..nn.base import Inputs, SparseActivation, device_of, first
from .activations import SMOOTH, Replace, equal_module, kind_of, requested

__all__ = ["RepeatedActivation", "own_modules", "separate"]


@dataclass(frozen=True)
class _Call:
    """A call of a function in a module's forward method."""

    function: str
    module: nn.Module | None
    where: str
    """File and line."""


@dataclass
class _Seen:
    """What one run of the model showed."""

    calls: dict[nn.Module, list[_Call]] = field(default_factory=dict)
    """By the module whose forward method calls: the calls in their order (of the longest run of the method)."""
    repeats: dict[nn.Module, tuple[nn.Module, int]] = field(default_factory=dict)
    """Activation modules that one run of a forward method calls several times: by whom, and how often."""


def separate(model: nn.Module) -> None:
    """Where one activation module stands in several places of the module tree, each gets a copy, in place.

    PReLU stays shared: its places share a parameter.
    """
    seen: set[int] = set()
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None or kind_of(child) is None or isinstance(child, nn.PReLU):
                continue
            if id(child) in seen:
                child = copy.deepcopy(child)
                setattr(parent, name, child)
            seen.add(id(child))


@torch.no_grad()
def own_modules(model: nn.Module, x: Inputs, replace: Replace | None) -> list[tuple[str, str, str]]:
    """Runs `model` twice on the first inputs of `x`, in evaluation mode, and gives each call of an activation a module, in place.

    A function's call becomes a child of the module whose forward method calls it, `relu_0`, `relu6_1` ... in the order
    of the calls; a module that one forward method calls several times becomes a `RepeatedActivation`. The network
    computes the same as before. Smooth activations get a module if `replace` asks for them. Returns the calls
    that stay as (path of the caller, function and line, reason).
    Raises `InputError` if the outputs change: then the network reads what an in-place activation has overwritten.
    """
    example = tuple(t.to(device_of(model)) for t in first(x, 2))
    before, seen = _observe(model, example)
    paths = {m: name for name, m in model.named_modules()}
    left = []
    for module, (owner, count) in seen.repeats.items():
        kind = str(kind_of(module))
        if kind not in SMOOTH or (kind != "prelu" and requested(replace, kind, paths[module])):
            _repeat(model, module, owner, count)
    for owner, calls in seen.calls.items():
        sites: list[tuple[str, str | None]] = []
        for i, call in enumerate(calls):
            child = f"{call.function}_{i}"
            path = f"{paths[owner]}.{child}".lstrip(".")
            reason = _reason(owner, call, child, path, replace)
            if reason is None:
                assert call.module is not None
                owner.add_module(child, call.module.train(owner.training))
            else:
                left.append((path, f"{call.function} at {call.where}", reason))
            sites.append((call.function, None if reason else child))
        if any(child for _, child in sites):
            _own(owner).call_sites = sites  # type: ignore[assignment]
    in_place = [
        name or "(the model)" for name, m in model.named_modules() if kind_of(m) is not None and getattr(m, "inplace", False)
    ]
    for module in model.modules():
        if kind_of(module) is not None and getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    after, _ = _observe(model, example)
    if not all(torch.allclose(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)):
        functions = [call.where for calls in seen.calls.values() for call in calls]
        raise InputError(
            "sparsify: the network reads a value that an in-place activation has overwritten, so a layer in the activation's place would "
            f"change its output. Use the result, x = F.relu(x), with inplace=False. Activations: {', '.join([*in_place, *functions])}."
        )
    return left


def _reason(owner: nn.Module, call: _Call, child: str, path: str, replace: Replace | None) -> str | None:
    """Why a call gets no module; None if it gets one."""
    if call.module is None:
        return f"{call.function} takes a parameter of the caller; use the module, nn.PReLU"
    if isinstance(owner, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return f"{type(owner).__name__} is a container, to which no module can be added; call it in a plain nn.Module"
    if hasattr(owner, child):
        return f"the caller has an attribute {child!r} already"
    if call.function in SMOOTH and requested(replace, call.function, path) is None:
        return f"not a ReLU; replace={call.function!r} replaces it"
    return None


# -- what a run shows --------------------------------------------------------------------------------------------------


def _caller(but: nn.Module | None = None) -> tuple[nn.Module, FrameType] | None:
    """The innermost module whose forward method runs, other than `but`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount:
            owner = frame.f_locals.get(code.co_varnames[0])
            if isinstance(owner, nn.Module) and owner is not but:
                return owner, frame
        frame = frame.f_back
    return None


class _Record(TorchFunctionMode):
    """Notes every call of an activation function with the forward method that makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[FrameType, tuple[nn.Module, list[_Call]]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = equal_module(func, args, kwargs or {})
        caller = _caller() if found else None
        if found and caller and kind_of(caller[0]) is None and not isinstance(caller[0], SparseActivation):
            owner, frame = caller
            call = _Call(*found, f"{frame.f_code.co_filename}:{frame.f_lineno}")
            self.calls.setdefault(frame, (owner, []))[1].append(call)
        return func(*args, **(kwargs or {}))


def _observe(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[list[Tensor], _Seen]:
    """The outputs of a run in evaluation mode, and the activations' calls in it."""
    counts: dict[tuple[nn.Module, FrameType], tuple[nn.Module, int]] = {}

    def count(module: nn.Module, _inputs: Any) -> None:
        caller = _caller(but=module)
        if caller is not None:
            key = (module, caller[1])
            counts[key] = (caller[0], counts.get(key, (caller[0], 0))[1] + 1)

    handles = [m.register_forward_pre_hook(count) for m in model.modules() if kind_of(m) is not None]
    modes = [(m, m.training) for m in model.modules()]
    record = _Record()
    try:
        with torch.random.fork_rng(devices=[]), record:
            torch.manual_seed(0)
            y = model.eval()(*(t.clone() for t in example))
    finally:
        for m, mode in modes:
            m.training = mode
        for h in handles:
            h.remove()
    seen = _Seen()
    for owner, calls in record.calls.values():
        if len(calls) > len(seen.calls.get(owner, ())):
            seen.calls[owner] = calls
    for (module, _), (owner, n) in counts.items():
        if n > max(1, seen.repeats.get(module, (owner, 0))[1]):
            seen.repeats[module] = (owner, n)
    return [t for t in torch.utils._pytree.tree_leaves(y) if isinstance(t, Tensor)], seen


# -- modules that run in the place of calls ----------------------------------------------------------------------------


class RepeatedActivation(nn.Module):
    """An activation module that its parent calls several times: its children 0, 1, ... take the calls in turn."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)
        self.turns: Iterator[int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        turn = 0 if self.turns is None else next(self.turns, 0)
        return getattr(self, str(turn))(x)


def _repeat(model: nn.Module, module: nn.Module, owner: nn.Module, count: int) -> None:
    repeated = RepeatedActivation([module, *(copy.deepcopy(module) for _ in range(count - 1))]).train(module.training)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is module and parent is not repeated:
                setattr(parent, name, repeated)
    _own(owner).repeated.append(repeated)


class _Dispatch(TorchFunctionMode):
    """Sends the calls of activation functions in `owner`'s forward method to its children."""

    def __init__(self, owner: "_CallSites"):
        super().__init__()
        self.owner, self.next = owner, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = equal_module(func, args, kwargs)
        caller = _caller() if found else None
        # torch.export hands a proxy of the module around, which shares its attributes.
        if found and caller and caller[0].__dict__ is self.owner.__dict__:
            turn, self.next = self.next, self.next + 1
            sites = self.owner.call_sites
            name, child = sites[turn] if turn < len(sites) else ("", None)
            if child is not None and name == found[0]:
                return getattr(self.owner, child)(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)


class _CallSites(nn.Module):
    """Mixed into the class of a module whose calls have modules."""

    call_sites: list[tuple[str, str | None]]
    """For each call of an activation function in turn: the function, and the child that takes its place."""
    repeated: list[RepeatedActivation]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for layer in self.repeated:
            layer.turns = _turns(len(layer._modules))
        if not self.call_sites:
            return super().forward(*args, **kwargs)
        with _Dispatch(self):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (type(self).__mro__[2],), self.__dict__.copy()


class _turns:
    """0 .. count - 1, over and over. An iterator of its own, since generators cannot be copied with the model."""

    def __init__(self, count: int):
        self.count, self.next = count, -1

    def __iter__(self) -> "_turns":
        return self

    def __next__(self) -> int:
        self.next = (self.next + 1) % self.count
        return self.next


_CLASSES: dict[Any, type[nn.Module]] = {}


def _class(base: type[nn.Module]) -> type[nn.Module]:
    if base not in _CLASSES:
        names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
        _CLASSES[base] = type(base.__name__, (_CallSites, base), names)
    return _CLASSES[base]


def _rebuild(base: type[nn.Module]) -> nn.Module:
    cls = _class(base)
    return cls.__new__(cls)


def _own(owner: nn.Module) -> _CallSites:
    """`owner` as one that sends calls to modules; its class becomes a subclass of what it was."""
    if not isinstance(owner, _CallSites):
        owner.__class__ = _class(type(owner))
        assert isinstance(owner, _CallSites)
        owner.call_sites, owner.repeated = [], []
    return owner
