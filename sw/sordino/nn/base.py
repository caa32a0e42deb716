"""What every sparsity method shares: the layer that may add a penalty to the loss, and the registry of methods."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError

__all__ = [
    "METHODS",
    "Inputs",
    "Penalised",
    "SparseActivation",
    "density",
    "device_of",
    "first",
    "layer_inputs",
    "method",
    "penalty",
    "rectifies",
    "register",
    "sites",
]

Inputs = Tensor | Sequence[Tensor]
"""A model's input (N, ...); or, of a model with several, one tensor for each, in the order of its arguments."""

METHODS: "dict[str, type[SparseActivation]]" = {}
"""Every method by name. A method is one file that defines a `SparseActivation` and registers it."""

Layer = TypeVar("Layer", bound="type[SparseActivation]")


class Penalised(nn.Module):
    """A module that leaves a penalty for the loss when it is called in training."""

    cost_weight: float = 1.0
    """Factor of the penalty."""

    def __init__(self) -> None:
        super().__init__()
        self._penalty: Tensor | None = None

    def take_penalty(self) -> Tensor | None:
        """The penalty of the calls since the last `take_penalty`, which forgets it."""
        cost, self._penalty = self._penalty, None
        return cost


class SparseActivation(Penalised):
    """An activation that takes a ReLU's place, and in training leaves a penalty for the loss.

    A method overrides `activate` (the forward function), `cost` (the penalty of one call, a scalar: the sum over an
    image's activations, mean over the batch) and, where it has state that follows from data, `calibrate`.
    In evaluation mode only `activate` runs, so an exported graph holds nothing else.
    """

    method: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    keeps_zeros: ClassVar[bool] = False
    """Whether the forward function alone keeps activations silent, so that training may go on without the penalty."""

    def __init__(self) -> None:
        super().__init__()
        self.cost_weight = 1.0
        """Factor of this layer's penalty: what one of its events costs, relative to the others (see `sordino.weigh`)."""
        self.bound: float | None = None
        """The largest input that counts, such as 6 where the layer replaces a ReLU6: larger ones are set to it."""
        self.level = 1.0
        """Share of the layer in its output; the rest is `original`, the activation that it replaces gradually."""

    def fade_in(self, original: nn.Module) -> None:
        """Makes the layer compute `original`, which it replaces as `set_blend` says."""
        self.original, self.level = original, 0.0
        self.register_buffer("blend", torch.zeros(()))  # the level as a part of the state dict

    def set_blend(self, level: float) -> None:
        """Sets the layer's share, 0 to 1, in its output; a layer that replaced its activation at once has 1 for ever."""
        if "blend" in self._buffers:
            self.level = level
            self.get_buffer("blend").fill_(level)

    def limit(self, x: Tensor) -> Tensor:
        """x, at most `bound`."""
        return x if self.bound is None else x.clamp(max=self.bound)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if "blend" in self._buffers:
            self.level = float(self.get_buffer("blend"))

    @property
    def exports_another_form(self) -> bool:
        """Whether the exported graph, by design, computes other values than the module does."""
        return False

    def activate(self, x: Tensor) -> Tensor:
        """x: float (N, C) or (N, C, H, W) -> the same shape."""
        raise NotImplementedError

    def cost(self, x: Tensor, y: Tensor) -> Tensor | None:
        """The penalty of one call, from its input and output; None for no penalty."""
        return None

    def calibrate(self, inputs: Sequence[Tensor]) -> None:
        """Sets state from the layer's inputs on a calibration set: one tensor (N, C, ...) for each call."""

    def watched(self) -> dict[str, Tensor]:
        """What changes in training and is worth following, such as thresholds: tensors of any shape by name."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        whole, x = x, self.limit(x)
        y = self.activate(x)
        if self.training and torch.is_grad_enabled():
            cost = self.cost(x, y)
            if cost is not None:  # a module that is called twice in a forward pass pays twice
                self._penalty = cost if self._penalty is None else self._penalty + cost
        if self.level < 1:
            if torch.compiler.is_exporting():
                raise InputError(
                    f"a layer of {self.method!r} has replaced {type(self.original).__name__} by {self.level:.0%} only. Go on training with "
                    "before_epoch=sordino.Blend(epochs) for more than `epochs` epochs before you quantise or export the network."
                )
            y = torch.lerp(self.original(whole), y, self.level)
        return y


def register(name: str, summary: str) -> Callable[[Layer], Layer]:
    """Class decorator: makes a `SparseActivation` known to `sd.sparsify` and the command line as `name`."""

    def add(layer: Layer) -> Layer:
        layer.method, layer.summary = name, summary
        METHODS[name] = layer
        return layer

    return add


def method(name: str) -> type[SparseActivation]:
    """The layer class of a method. Raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise InputError(f"unknown sparsity method {name!r}: the methods are {', '.join(METHODS)}")
    return METHODS[name]


def rectifies(module: nn.Module) -> bool:
    """Whether a module is `max(x, 0)`, with an upper bound or without: ReLU, ReLU6, Hardtanh from 0."""
    return isinstance(module, nn.ReLU) or (isinstance(module, nn.Hardtanh) and module.min_val == 0 < module.max_val)


def sites(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """ReLUs, bounded or not, and layers of a method alike, as (module path, module)."""
    for name, module in model.named_modules():
        if isinstance(module, SparseActivation) or rectifies(module):
            yield name, module


def penalty(model: nn.Module) -> Tensor | None:
    """The sum of the penalties, each times its layer's `cost_weight`, that the last forward pass left in `model`, or None. The modules forget them."""
    costs = [m.cost_weight * c for m in model.modules() if isinstance(m, Penalised) and (c := m.take_penalty()) is not None]
    return torch.stack(costs).sum() if costs else None


@torch.no_grad()
def layer_inputs(model: nn.Module, x: Inputs, batch_size: int = 256) -> dict[SparseActivation, list[Tensor]]:
    """Runs `model` on `x` in evaluation mode: the inputs of every method's layer, one tensor for each call, at most its `bound`."""
    seen: dict[SparseActivation, list[Tensor]] = {}

    def keep(module, inputs, _y):
        seen.setdefault(module, []).append(module.limit(inputs[0].detach()))

    _run(model, x, batch_size, {m: keep for _, m in sites(model) if isinstance(m, SparseActivation)})
    return seen


@torch.no_grad()
def density(model: nn.Module, x: Inputs, batch_size: int = 256) -> dict[str, tuple[int, int]]:
    """Non-zero activations of `model` on `x`: module path of each activation -> (non-zero, all) values, whole batch."""
    counts = {name: [0, 0] for name, _ in sites(model)}

    def count(name: str):
        def hook(_module, _inputs, y):
            counts[name][0] += int(torch.count_nonzero(y))
            counts[name][1] += y.numel()

        return hook

    _run(model, x, batch_size, {m: count(name) for name, m in sites(model)})
    return {name: (a, b) for name, (a, b) in counts.items()}


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer of `model` is; the CPU if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def first(x: Inputs, count: int) -> tuple[Tensor, ...]:
    """The first `count` inputs (all, if there are not as many): a tensor for each argument of the model.

    Raises `InputError` if there is none, or the arguments are not equally many.
    """
    tensors = (x,) if isinstance(x, Tensor) else tuple(x)
    if not tensors or not len(tensors[0]) or len({len(t) for t in tensors}) > 1:
        raise InputError(
            f"inputs must be tensors of equal length, 1 at least, not of {', '.join(str(len(t)) for t in tensors) or 'none'}"
        )
    return tuple(t[:count] for t in tensors)


def _run(model: nn.Module, x: Inputs, batch_size: int, hooks: dict[nn.Module, Callable]) -> None:
    handles = [m.register_forward_hook(hook) for m, hook in hooks.items()]
    training, device = model.training, device_of(model)
    tensors = (x,) if isinstance(x, Tensor) else tuple(x)
    try:
        model.eval()
        for parts in zip(*(t.split(batch_size) for t in tensors), strict=True):
            model(*(part.to(device) for part in parts))
    finally:
        model.train(training)
        for h in handles:
            h.remove()
