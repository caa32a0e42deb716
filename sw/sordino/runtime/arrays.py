"""Arrays of users: NumPy's, and PyTorch's where it is loaded. Nothing here loads it."""

import sys
from typing import Any

import numpy as np

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.numbers import quantise

__all__ = ["like", "quantised", "quantised_input", "real_input", "to_numpy"]


def _is_tensor(x: Any) -> bool:
    """Whether `x` is a tensor of PyTorch; it can be none before the program that passes it has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.is_tensor(x)


def to_numpy(name: str, x: Any) -> np.ndarray:
    """The input `name` as a NumPy array. Raises `InputError` for what is neither an array nor a tensor, and for tensors whose values
    are not plain real numbers. Floats that NumPy lacks (bfloat16 and those of 8 bits) become float32, which holds them exactly."""
    if _is_tensor(x):
        return _plain(name, x)
    if isinstance(x, np.ndarray):
        return x
    raise InputError(f"input {name!r} is a {type(x).__name__}; give a NumPy array or a torch tensor [batch, c, h, w]")


def _plain(name: str, x: Any) -> np.ndarray:
    """A tensor of PyTorch as an array."""
    torch = sys.modules["torch"]
    problem = ""
    if x.device.type == "meta":
        problem = "is on the device 'meta' and has no values; give one with values, such as torch.zeros_like(x, device='cpu')"
    elif x.is_quantized:
        problem = "is quantised; give x.dequantize()"
    elif x.layout is not torch.strided:
        problem = f"has the layout {x.layout}; give x.to_dense()"
    elif x.is_complex():
        problem = "is complex; give real numbers, such as x.real"
    if problem:
        raise InputError(f"input {name!r} {problem}.")
    try:
        if x.is_floating_point() and x.dtype not in (torch.float16, torch.float32, torch.float64):
            x = x.float()
        return x.detach().cpu().resolve_neg().numpy()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise InputError(f"input {name!r}: a tensor of {x.dtype} that cannot be read ({error}). Give x.float().") from None


def like(given: Any, y: np.ndarray) -> Any:
    """`y` in the kind that `given` has: a tensor for a tensor, else the array itself."""
    return sys.modules["torch"].from_numpy(y) if _is_tensor(given) else y


def quantised_input(
    name: str, x: Any, shape: tuple[int, ...], tensor_shape: tuple[int, int, int], scale: float, limits: tuple[int, int]
) -> np.ndarray:
    """Floats [batch, *shape] or [batch, c, h, w] as the integers of an input: int16 [batch, c, h, w] (see `numbers.quantise`).

    Parameters
    ----------
    shape : as the model has it, without the batch
    tensor_shape : (c, h, w)
    limits : least and greatest integer

    Raises `InputError` for a wrong shape or dtype, and for NaNs and infinities.
    """
    return quantised(real_input(name, x, shape, tensor_shape), tensor_shape, scale, limits)


def quantised(x: np.ndarray, tensor_shape: tuple[int, int, int], scale: float, limits: tuple[int, int]) -> np.ndarray:
    """Floats [batch, ...] as integers of an input: int16 [batch, c, h, w]."""
    return quantise(x, scale, *limits).reshape(-1, *tensor_shape).astype(np.int16)


def real_input(name: str, x: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """The input `name` as an array of floats [batch, *shape], of one of some shapes; the first is what messages name.

    Raises `InputError` for a wrong shape or dtype, and for NaNs and infinities.
    """
    x = to_numpy(name, x)
    if x.dtype.kind != "f":
        raise InputError(f"input {name!r} has dtype {x.dtype}; give floats, or integers to Accelerator.integers")
    if x.ndim == 0 or x.shape[1:] not in shapes or not len(x):
        wanted = ", ".join(map(str, shapes[0]))
        raise InputError(f"input {name!r} has shape {x.shape}; it must be [batch, {wanted}] with at least one image")
    bad = ~np.isfinite(x)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(
            f"input {name!r} has {int(bad.sum())} values that are NaN or infinite, the first at {where}. Clean the data."
        )
    return x
