"""The four networks of MLPerf Tiny: key word spotting, visual wake words, image classification and anomaly detection.

Layers, padding and parameter counts are those of the reference implementations in Keras (github.com/mlcommons/tiny): padding
"same", which puts the odd row or column behind the image, convolutions with bias before each batch norm, and a batch norm
that counts its statistics among the parameters. The softmax at the end is left to the user.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import positive
from .registry import Entry, add

__all__ = ["DSCNN", "AutoEncoder", "MobileNetV1Quarter", "ResNet8"]


class _Same(nn.Conv2d):
    """A convolution with Keras' padding "same": ceil(size / stride) outputs, the odd row or column of zeros behind."""

    def forward(self, x: Tensor) -> Tensor:
        sides: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        if sides[0] == sides[1] and sides[2] == sides[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (sides[2], sides[0]), 1, self.groups)
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _block(inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [_Same(inputs, outputs, kernel, stride, groups=groups), nn.BatchNorm2d(outputs), nn.ReLU()]


def _separable(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [*_block(inputs, inputs, 3, stride, inputs), *_block(inputs, outputs, 1)]


class DSCNN(nn.Module):
    """(N, 1, 49, 10) cepstral coefficients -> logits (N, num_classes). Hello Edge, Zhang et al. 2017 (arXiv 1711.07128)."""

    def __init__(self, num_classes: int = 12):
        super().__init__()
        positive("num_classes", num_classes)
        blocks = [_separable(64, 64) for _ in range(4)]
        self.features = nn.Sequential(*_block(1, 64, (10, 4), 2), nn.Dropout(0.2), *(m for b in blocks for m in b), nn.Dropout(0.4))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class MobileNetV1Quarter(nn.Module):
    """(N, 3, 96, 96) -> logits (N, num_classes). MobileNetV1 with a quarter of the channels (arXiv 1704.04861)."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        positive("num_classes", num_classes)
        channels = (8, 16, 32, 32, 64, 64, *(128,) * 6, 256, 256)
        layers = _block(3, channels[0], 3, 2)
        for inputs, outputs in pairwise(channels):
            layers += _separable(inputs, outputs, 2 if outputs > inputs > 8 else 1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(*_block(inputs, outputs, 3, stride), _Same(outputs, outputs, 3), nn.BatchNorm2d(outputs))
        self.shortcut = _Same(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.body(x))


class ResNet8(nn.Module):
    """(N, 3, 32, 32) -> logits (N, num_classes). ResNet of one block at 16, 32 and 64 channels (arXiv 1512.03385)."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        positive("num_classes", num_classes)
        self.features = nn.Sequential(*_block(3, 16, 3), _Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class AutoEncoder(nn.Module):
    """(N, 1, 5, 128) or (N, 640), five frames of a mel spectrogram in dB -> the same, reconstructed: (N, 640).

    Baseline of DCASE 2020, task 2 (arXiv 2006.05822). The anomaly score is the mean squared error of the reconstruction.
    """

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((640, 128, 128, 128, 128, 8, 128, 128, 128, 128)):
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 640))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(torch.flatten(x, 1))


_SOURCE = "none published as tensors; layers of MLPerf Tiny's Keras reference"
add(Entry("ds_cnn", DSCNN, {}, (1, 49, 10), _SOURCE, "arXiv 1711.07128", "MFCC, 49 frames of 10"))
add(Entry("mobilenet_v1_025", MobileNetV1Quarter, {}, (3, 96, 96), _SOURCE, "arXiv 1704.04861", "RGB, 0 to 1"))
add(Entry("resnet8", ResNet8, {}, (3, 32, 32), _SOURCE, "arXiv 1512.03385", "RGB, 0 to 255"))
add(Entry("autoencoder", AutoEncoder, {}, (1, 5, 128), _SOURCE, "arXiv 2006.05822", "log mel spectrogram, dB"))
