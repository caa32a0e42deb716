"""The state of a training in a file, and the random numbers of its processes."""

import io
import os
from typing import Any

import torch
from torch import Tensor, nn

from sordino_hw.spec.errors import InputError
from sordino_hw.spec.files import replacing

__all__ = ["load", "random_state", "save", "set_random_state", "snapshot"]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def random_state(noise: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """The state of this process's random numbers: those of the augmentation and torch's own."""
    state = {"noise": noise.get_state(), "torch": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: dict[str, Tensor], noise: torch.Generator, device: torch.device) -> None:
    noise.set_state(state["noise"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def save(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Writes the file whole or not at all. Raises `InputError` if it cannot be written."""
    buffer = io.BytesIO()  # of a full disk torch.save would say no more than that its writer failed
    torch.save(state, buffer)
    with replacing(path, InputError) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(path: str | os.PathLike, settings: dict[str, Any]) -> dict[str, Any]:
    """Reads a state, without unpickling more than tensors and plain values.

    Raises `InputError` for a damaged file, and for one of a training with other settings.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        other = state["settings"]
    except Exception as error:  # torch.load raises what its unpickler meets
        raise InputError(f"{path}: not a readable training checkpoint ({type(error).__name__}). Delete it to start anew.") from None
    if other != settings:
        different = ", ".join(f"{k}: {other.get(k)!r} / {settings[k]!r}" for k in settings if other.get(k) != settings[k])
        raise InputError(f"{path}: the checkpoint is of another training ({different}). Delete it, or train with its settings.")
    return state
