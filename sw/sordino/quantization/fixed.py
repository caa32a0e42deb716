"""The fake-quantiser of a tensor whose scale the model fixes."""

import torch
from torch import Tensor

from .observers import ActivationQuantizer

__all__ = ["FixedQuantizer"]


class FixedQuantizer(ActivationQuantizer):
    """As `ActivationQuantizer`, with the scale `step` whatever is observed."""

    def __init__(self, *arguments, step: float, **options):
        super().__init__(*arguments, **options)
        self.step = step

    def calculate_qparams(self, **_) -> tuple[Tensor, Tensor]:
        return torch.tensor([self.step], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
