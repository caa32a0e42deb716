"""A model as it is exported and compared with: in evaluation mode, in float32, on the CPU. Afterwards it is as it was."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["evaluation"]


@contextlib.contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and float32 tensors on the CPU in place of those of other precisions and devices; both are put back.

    Parts that `torch.compile` made run without being compiled.

    The tensors are replaced rather than converted in a copy, because a function's modules cannot be copied with it.
    """
    modes = {m: m.training for m in model.modules()}
    with contextlib.suppress(NotImplementedError):  # the module of an ExportedProgram has one mode only
        model.eval()
    before = _as_float(model)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for place, name, tensor in before:
            place[name] = tensor
        for m, mode in modes.items():
            m.training = mode


def _as_float(model: nn.Module) -> list[tuple[Any, str, Tensor]]:
    """Replaces what is not float32 on the CPU; returns what was where. What was one tensor stays one."""
    made: dict[int, Tensor] = {}
    before: list[tuple[Any, str, Tensor]] = []
    for m in model.modules():
        for place in (m._parameters, m._buffers, vars(m)):
            for name, t in place.items():
                if not isinstance(t, Tensor) or (
                    t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point())
                ):
                    continue
                if id(t) not in made:
                    new = t.detach().cpu()
                    new = new.float() if new.is_floating_point() else new
                    made[id(t)] = nn.Parameter(new, t.requires_grad) if isinstance(t, nn.Parameter) else new
                before.append((place, name, t))
    for place, name, t in before:
        place[name] = made[id(t)]
    return before
