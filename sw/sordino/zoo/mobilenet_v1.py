"""MobileNetV1 with the parameter names of timm's `mobilenetv1_100` (torchvision has none)."""

import torch
from torch import Tensor, nn

from .blocks import activation_module, choice, divisible, initialise, positive
from .registry import Entry, add

__all__ = ["MobileNetV1"]

_STAGES = ((1, 64), (2, 128), (2, 256), (6, 512), (2, 1024))
"""(blocks, channels); every stage but the first halves height and width."""


class _Separable(nn.Module):
    """3x3 depthwise, then 1x1 convolution, each with batch norm and activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str):
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = activation_module(activation)
        self.conv_pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act2 = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv_dw(x)))
        return self.act2(self.bn2(self.conv_pw(x)))


class MobileNetV1(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes). MobileNets, Howard et al. 2017 (arXiv 1704.04861).

    width_mult : factor of all channels, rounded to multiples of 8
    activation : "relu", or "relu6" as timm's checkpoints were trained; `sparsify` keeps the bound
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, activation: str = "relu6"):
        super().__init__()
        positive("num_classes", num_classes)
        positive("width_mult", width_mult)
        choice("activation", activation, ("relu", "relu6"))
        inputs = divisible(32 * width_mult)
        self.conv_stem = nn.Conv2d(3, inputs, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.act1 = activation_module(activation)
        stages = []
        for i, (count, channels) in enumerate(_STAGES):
            outputs = divisible(channels * width_mult)
            blocks = []
            for j in range(count):
                blocks.append(_Separable(inputs, outputs, 2 if i and j == 0 else 1, activation))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        return self.classifier(torch.flatten(self.global_pool(x), 1))


add(Entry("mobilenet_v1", MobileNetV1, {}, (3, 224, 224), "timm, `mobilenetv1_100`", "arXiv 1704.04861", "RGB, -1 to 1"))
