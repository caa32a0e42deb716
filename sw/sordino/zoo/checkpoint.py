"""Checkpoints of the original projects."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.text import printable

__all__ = ["fitting", "load_checkpoint"]

_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict")
"""Where training scripts keep the weights in a checkpoint that holds more than them."""


def load_checkpoint(model: nn.Module, path: str | os.PathLike, skip: Sequence[str] = ()) -> None:
    """Loads weights into `model` in place, all of them or, on an error, none.

    path : a safetensors file (by its suffix), or a file of `torch.save`, which is read with `weights_only=True`: nothing
        in it is executed. The weights may lie deeper, such as under "state_dict", "model" or "model_state", and carry a prefix,
        such as "module." of data-parallel training
    skip : prefixes of names to leave alone, on both sides, such as `["fc."]` for a head with other classes

    Raises `InputError` for a file that cannot be read, and names missing, unexpected and differently shaped tensors.
    """
    path = Path(path)
    own = model.state_dict()
    state = fitting(_read(path), own, path)
    adapt = getattr(model, "adapt", None)  # a network that stores a tensor in another form than its original
    if adapt is not None:
        state = adapt(state)
    skipped = tuple(skip)
    state = {k: v for k, v in state.items() if not k.startswith(skipped)} if skipped else dict(state)
    for name, value in own.items():
        if (skipped and name.startswith(skipped)) or (name.endswith("num_batches_tracked") and name not in state):
            state[name] = value  # old checkpoints do not count batches
    if odd := {k: form for k, v in state.items() if (form := _odd(v, own.get(k)))}:
        name, form = next(iter(odd.items()))
        others = f" (neither are {len(odd) - 1} others)" if len(odd) > 1 else ""
        raise InputError(
            f"{path}: tensor {printable(name)} is {form}, not a plain dense tensor of real numbers{others}. "
            "Nothing was loaded. Save the state_dict of the float model, with its tensors dense and on the CPU."
        )
    different = [
        f"{k} is {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = [
        f"{label} {_some(found)}"
        for label, found in (
            ("missing:", [k for k in own if k not in state]),
            ("unexpected:", [k for k in state if k not in own]),
            ("of another shape:", different),
        )
        if found
    ]
    if problems:
        raise InputError(
            f"{path}: the checkpoint does not fit {type(model).__name__}; {'; '.join(problems)}. Nothing was loaded. Build the model "
            "with the checkpoint's options (num_classes, ...), leave parts out with skip=, and load before sparsify or quantize."
        )
    model.load_state_dict(state)


def _odd(value: Tensor, own: Tensor | None) -> str | None:
    """What keeps a tensor from being copied into a parameter, in words; None for a plain one."""
    if value.is_meta:
        return "without data (on the device meta)"
    if value.is_quantized:
        return f"quantised ({value.dtype})"
    if value.layout is not torch.strided:
        return f"sparse ({value.layout})"
    if value.is_complex() and not (own is not None and own.is_complex()):
        return f"complex ({value.dtype})"
    return None


def _some(items: Iterable[str], shown: int = 5) -> str:
    items = list(items)
    rest = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(map(printable, items[:shown])) + rest


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file. Download the checkpoint first: the zoo never downloads.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its unpickler meets
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {printable(reason)}). It must be a .safetensors file, or a file of "
            "torch.save that holds tensors and plain values only (NumPy's numbers, which scripts save as best scores, are none); if you "
            "trust where it comes from, load it with torch.load(..., weights_only=False) and save its state_dict with torch.save."
        ) from None


def fitting(read: Any, own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that fit `own` best, by its names.

    They may lie deeper in it, and carry a prefix: "module." of data-parallel training, "model." of a Lightning module, "_orig_mod." of
    `torch.compile`. What does not carry the prefix of the others is of another part of the training, and is left out. Raises
    `InputError` for a file without weights.
    """
    states = list(_states(read))
    if not states:
        raise InputError(
            f"{path}: holds no weights. Expected a dictionary from names to tensors, by itself or under one of {', '.join(_WRAPPERS)}."
        )
    return max((_without_prefix(state, own) for state in states), key=lambda state: sum(name in state for name in own))


def _states(read: Any, depth: int = 3) -> Iterable[Mapping[str, Tensor]]:
    """Dictionaries from names to tensors within dictionaries: those under the usual names first."""
    if not isinstance(read, Mapping) or not read:
        return
    if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in read.items()):
        yield read
    elif depth:
        for key in sorted(read, key=lambda k: _WRAPPERS.index(k) if k in _WRAPPERS else len(_WRAPPERS)):
            yield from _states(read[key], depth - 1)


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the prefix with which most names are those of `own`."""
    prefixes = {""} | {k.removesuffix(name) for name in list(own)[:8] for k in state if k.endswith(f".{name}")}
    best = max(sorted(prefixes, key=len), key=lambda prefix: sum(prefix + name in state for name in own))
    return {k.removeprefix(best): v for k, v in state.items() if k.startswith(best)}
