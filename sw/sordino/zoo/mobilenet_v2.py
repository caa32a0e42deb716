"""MobileNetV2 with torchvision's parameter names."""

import torch
from torch import Tensor, nn

from .blocks import choice, conv_bn, divisible, initialise, positive
from .registry import IMAGENET, Entry, add

__all__ = ["InvertedResidual", "MobileNetV2", "features"]

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""(expansion, channels, blocks, stride of the first block)."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and 1x1 linear convolution, with a shortcut where the shape stays.

    pad_first : the padding belongs to the first convolution, whatever it is, as where an implementation pads the block's
        input; otherwise to the depthwise one. The difference is at the borders only.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, dilation: int, activation: str, pad_first: bool):
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        early, late = (dilation, 0) if pad_first and expansion != 1 else (0, dilation)
        modules: list[nn.Module] = []
        if expansion != 1:
            modules.append(nn.Sequential(*conv_bn(inputs, hidden, 1, activation, padding=early)))
        depthwise = conv_bn(hidden, hidden, 3, activation, stride=stride, padding=late, dilation=dilation, groups=hidden)
        modules += [nn.Sequential(*depthwise), *conv_bn(hidden, outputs, 1)]
        self.conv = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y + x if self.shortcut else y


def features(width_mult: float, activation: str, output_stride: int = 32, pad_first: bool = False) -> tuple[list[nn.Module], int]:
    """Stem and blocks 0 to 17, and their output channels.

    output_stride : 32; with 16 or 8 later stages dilate their kernels instead of striding (for segmentation)
    pad_first : see `InvertedResidual`; the stem has no padding then
    """
    inputs, reached, dilation = divisible(32 * width_mult), 2, 1
    modules: list[nn.Module] = [nn.Sequential(*conv_bn(3, inputs, 3, activation, stride=2, padding=0 if pad_first else 1))]
    for expansion, channels, count, stride in _STAGES:
        outputs, first = divisible(channels * width_mult), dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for j in range(count):
            d = first if j == 0 else dilation
            modules.append(InvertedResidual(inputs, outputs, stride if j == 0 else 1, expansion, d, activation, pad_first))
            inputs = outputs
    return modules, inputs


class MobileNetV2(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes). MobileNetV2, Sandler et al. 2018 (arXiv 1801.04381).

    width_mult : factor of all channels, rounded to multiples of 8
    activation : "relu", or "relu6" as torchvision's checkpoints were trained; `sparsify` keeps the bound
    """

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, activation: str = "relu6"):
        super().__init__()
        positive("num_classes", num_classes)
        positive("width_mult", width_mult)
        choice("activation", activation, ("relu", "relu6"))
        modules, inputs = features(width_mult, activation)
        last = divisible(1280 * max(1.0, width_mult))
        self.features = nn.Sequential(*modules, nn.Sequential(*conv_bn(inputs, last, 1, activation)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


add(Entry("mobilenet_v2", MobileNetV2, {}, (3, 224, 224), "torchvision", "arXiv 1801.04381", IMAGENET))
