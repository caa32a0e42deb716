"""ResNet with torchvision's parameter names (its bottleneck strides in the 3x3 convolution: "v1.5")."""

import torch
from torch import Tensor, nn

from .blocks import initialise, positive
from .registry import IMAGENET, Entry, add

__all__ = ["Basic", "Bottleneck", "ResNet", "Trunk"]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: (N, inputs, H, W) -> (N, 4 width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inputs, 4 * width, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu3(y + (x if self.downsample is None else self.downsample(x)))


class Trunk(nn.Module):
    """Everything of a ResNet in front of its pooling.

    block : `Basic` or `Bottleneck`
    depths : blocks of the four stages
    output_stride : 32; with 16 or 8 the last one or two stages dilate their kernels instead of striding (for segmentation)
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...], output_stride: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs, reached, dilation = 64, 4, 1
        for i, depth in enumerate(depths):
            width, stride, first = 64 << i, 1 if i == 0 else 2, dilation
            if reached * stride > output_stride:
                dilation, stride = dilation * stride, 1
            reached *= stride
            blocks = []
            for j in range(depth):
                blocks.append(block(inputs, width, stride if j == 0 else 1, first if j == 0 else dilation))
                inputs = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.channels = inputs

    def stages(self, x: Tensor) -> tuple[Tensor, ...]:
        """x: (N, 3, H, W) -> the outputs of the four stages, at strides 4, 8, 16 and 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            found.append(x)
        return tuple(found)


class ResNet(Trunk):
    """(N, 3, H, W) -> logits (N, num_classes). Deep Residual Learning, He et al. 2015 (arXiv 1512.03385)."""

    def __init__(self, block: type[Basic] | type[Bottleneck], depths: tuple[int, ...], num_classes: int = 1000):
        positive("num_classes", num_classes)
        super().__init__(block, depths)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.stages(x)[-1]), 1))


for _name, _block, _depths in (("resnet18", Basic, (2, 2, 2, 2)), ("resnet50", Bottleneck, (3, 4, 6, 3))):
    _fixed = dict(block=_block, depths=_depths)
    add(Entry(_name, ResNet, _fixed, (3, 224, 224), "torchvision", "arXiv 1512.03385", IMAGENET))
