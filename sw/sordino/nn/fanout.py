"""Fan-out: how many products one activation costs."""

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .base import device_of, sites

__all__ = ["fan_out"]

_F = torch.nn.functional
_CONVOLUTIONS = (torch.conv1d, torch.conv2d, _F.conv1d, _F.conv2d)


@torch.no_grad()
def fan_out(model: nn.Module, *example: Tensor) -> dict[str, int]:
    """Products that one activation of each site enters: module path -> filters x kernel taps, over all its readers.

    A convolution with F filters of k x k in G groups counts `F / G * k * k` (interior pixels at stride 1, as the DAL paper
    counts), a fully connected layer its outputs. Activations are followed through pooling, additions, views and
    normalisation until a convolution, a fully connected layer, or the next activation. An activation that only the
    model's output reads has 0.

    `example` are the model's inputs; the model runs once in evaluation mode.
    """
    names = dict(sites(model))
    found = dict.fromkeys(names, 0)
    origin: dict[int, tuple[Tensor, frozenset[str]]] = {}  # by id; the tensor is kept so that its id is not used again

    def sources(values) -> frozenset[str]:
        tensors = [v for v in torch.utils._pytree.tree_leaves(values) if isinstance(v, Tensor)]
        return frozenset().union(*(origin[id(t)][1] for t in tensors if id(t) in origin))

    def mark(values, labels: frozenset[str]) -> None:
        for t in torch.utils._pytree.tree_leaves(values):
            if isinstance(t, Tensor):
                origin[id(t)] = (t, labels)

    class Follow(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            y = func(*args, **kwargs)
            if func in _CONVOLUTIONS or func is _F.linear:
                x, weight = (args + tuple(kwargs[k] for k in ("input", "weight") if k in kwargs))[:2]
                taps = weight.shape[2:].numel()
                groups = x.shape[1] // weight.shape[1] if func in _CONVOLUTIONS else 1
                for name in sources(x):
                    found[name] += weight.shape[0] // groups * taps
                mark(y, frozenset())
            else:
                mark(y, sources((args, kwargs)))
            return y

    handles = [m.register_forward_hook(lambda _m, _x, y, n=n: mark(y, frozenset([n]))) for n, m in names.items()]
    training, device = model.training, device_of(model)
    try:
        with Follow():
            model.eval()(*(x.to(device) for x in example))
    finally:
        model.train(training)
        for h in handles:
            h.remove()
    return found
