"""A call of a model that may fail, and where it failed."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from sordino_hw.spec.errors import SordinoError

__all__ = ["Failure", "attempt"]


@dataclass(frozen=True)
class Failure:
    """Why a call failed."""

    layer: str
    """Path and kind of the innermost module that was running; empty for the model itself."""
    given: str
    """Shapes of the tensors that it was given."""
    reason: str
    unbatched: bool = False
    """Whether a convolution was given an image without the batch dimension."""

    def __str__(self) -> str:
        return (f"layer {self.layer} was given {self.given}: " if self.layer else "") + self.reason


class _Unbatched(Exception):
    pass


class _Batched(TorchFunctionMode):
    """Refuses convolutions of an image without the batch dimension: PyTorch takes them, and the batch for channels."""

    RANKS = {torch.conv1d: 3, torch.conv2d: 4, torch.conv_transpose1d: 3, torch.conv_transpose2d: 4}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        rank = self.RANKS.get(func)
        if rank is not None and args and isinstance(args[0], Tensor) and args[0].dim() == rank - 1:
            raise _Unbatched(f"a convolution was given shape {tuple(args[0].shape)}, without the batch dimension")
        return func(*args, **(kwargs or {}))


def attempt(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Failure | None:
    """Calls the model on copies of its buffers, so that nothing of it changes. None where it succeeds.

    Raises `SordinoError` where a layer of Sordino's does.
    """
    running: list[tuple[str, nn.Module, str]] = []
    handles = []
    for path, m in model.named_modules():
        if path:
            handles.append(m.register_forward_pre_hook(lambda m, x, path=path: running.append((path, m, _shapes(x)))))
            handles.append(m.register_forward_hook(lambda m, x, y: running.pop() and None))
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Batched():
            warnings.simplefilter("ignore")
            torch.func.functional_call(model, buffers, *pytree.tree_map(_copied, (args, kwargs)))
    except SordinoError:
        raise
    except Exception as error:  # whatever the user's model raises
        layer, given = "", ""
        if running:
            path, m, given = running[-1]
            layer = f"{path!r} ({type(m).__name__}({m.extra_repr()}))"
        reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, RuntimeError | _Unbatched) else f"{type(error).__name__}: "
        return Failure(layer, given, kind + reason, isinstance(error, _Unbatched))
    finally:
        for handle in handles:
            handle.remove()
    return None


def _copied(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else x


def _shapes(inputs: Any) -> str:
    found = [str(tuple(t.shape)) for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    return "shape " + " and ".join(found) if found else "no tensor"
