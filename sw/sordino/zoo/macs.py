"""Multiply-accumulates of a network, counted while it runs."""

import torch
from torch import Tensor, nn

__all__ = ["count_macs"]


@torch.no_grad()
def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates for one input, of the convolutions and fully connected layers that are modules.

    example: (N, ...), any N. Taps on padding count, biases, batch norm, pooling and activations do not: the convention of
    the published figures. The model is run once in evaluation mode; where both are on the meta device, for shapes only.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        positions = inputs[0] if getattr(module, "transposed", False) else output
        total += positions.numel() * module.weight[0].numel()  # type: ignore[index,operator]

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return total // len(example)
