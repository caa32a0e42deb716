"""VGG with torchvision's parameter names, with and without batch norm."""

import torch
from torch import Tensor, nn

from .blocks import initialise, positive
from .registry import IMAGENET, Entry, add

__all__ = ["VGG", "features"]

LAYOUTS: dict[int, tuple[int, ...]] = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth -> convolutions before each of the five poolings, of 64, 128, 256, 512 and 512 channels."""


def features(depth: int, batch_norm: bool = False) -> nn.Sequential:
    """The convolutional part: (N, 3, H, W) -> (N, 512, H/32, W/32). Its indices are torchvision's."""
    modules: list[nn.Module] = []
    inputs = 3
    for width, count in zip((64, 128, 256, 512, 512), LAYOUTS[depth], strict=True):
        for _ in range(count):
            modules.append(nn.Conv2d(inputs, width, 3, padding=1))
            if batch_norm:
                modules.append(nn.BatchNorm2d(width))
            modules.append(nn.ReLU())
            inputs = width
        modules.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*modules)


class VGG(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes). Very Deep Convolutional Networks, Simonyan and Zisserman 2014 (arXiv 1409.1556)."""

    def __init__(self, depth: int, batch_norm: bool = False, num_classes: int = 1000):
        super().__init__()
        positive("num_classes", num_classes)
        self.features = features(depth, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        hidden = 4096
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        )
        initialise(self, linear_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


for _depth in LAYOUTS:
    for _norm in (False, True):
        _name = f"vgg{_depth}_bn" if _norm else f"vgg{_depth}"
        _fixed = dict(depth=_depth, batch_norm=_norm)
        add(Entry(_name, VGG, _fixed, (3, 224, 224), "torchvision", "arXiv 1409.1556", IMAGENET))
