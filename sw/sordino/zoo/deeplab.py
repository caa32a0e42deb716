"""DeepLabV3+ with the parameter names of VainF/DeepLabV3Plus-Pytorch (its checkpoints for VOC and Cityscapes)."""

import torch
from torch import Tensor, nn

from . import mobilenet_v2
from .blocks import choice, conv_bn, initialise, positive
from .registry import IMAGENET, Entry, add
from .resnet import Bottleneck, Trunk

__all__ = ["DeepLabV3Plus", "labels"]

_WIDTH = 256


class _ResNet50(Trunk):
    """(N, 3, H, W) -> low-level features at stride 4, features at the output stride."""

    low, high = 256, 2048

    def __init__(self, output_stride: int, activation: str):
        super().__init__(Bottleneck, (3, 4, 6, 3), output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stages = self.stages(x)
        return stages[0], stages[-1]


class _MobileNetV2(nn.Module):
    """(N, 3, H, W) -> low-level features at stride 4, features at the output stride. Blocks keep their torchvision indices."""

    low, high = 24, 320

    def __init__(self, output_stride: int, activation: str):
        super().__init__()
        blocks, _ = mobilenet_v2.features(1.0, activation, output_stride, pad_first=True)
        self.low_level_features = nn.Sequential(*blocks[:4])
        self.high_level_features = nn.Sequential()
        for i, block in enumerate(blocks[4:], 4):
            self.high_level_features.add_module(str(i), block)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = self.low_level_features(x)
        return low, self.high_level_features(low)


class _Global(nn.Sequential):
    """The image's mean, at every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        # From one pixel every interpolation is the same; nearest is what the array does.
        return nn.functional.interpolate(super().forward(x), size=x.shape[-2:], mode="nearest")


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: (N, inputs, h, w) -> (N, 256, h, w)."""

    def __init__(self, inputs: int, rates: tuple[int, int, int]):
        super().__init__()
        atrous = (nn.Sequential(*conv_bn(inputs, _WIDTH, 3, "relu", padding=r, dilation=r)) for r in rates)
        pooled = _Global(nn.AdaptiveAvgPool2d(1), *conv_bn(inputs, _WIDTH, 1, "relu"))
        self.convs = nn.ModuleList([nn.Sequential(*conv_bn(inputs, _WIDTH, 1, "relu")), *atrous, pooled])
        self.project = nn.Sequential(*conv_bn(5 * _WIDTH, _WIDTH, 1, "relu"), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], 1))


class _Decoder(nn.Module):
    def __init__(self, low: int, high: int, num_classes: int, rates: tuple[int, int, int], upsampling: str):
        super().__init__()
        self.upsampling = upsampling
        self.project = nn.Sequential(*conv_bn(low, 48, 1, "relu"))
        self.aspp = _Pyramid(high, rates)
        self.classifier = nn.Sequential(*conv_bn(48 + _WIDTH, _WIDTH, 3, "relu", padding=1), nn.Conv2d(_WIDTH, num_classes, 1))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        align = None if self.upsampling == "nearest" else False
        high = nn.functional.interpolate(self.aspp(high), size=low.shape[-2:], mode=self.upsampling, align_corners=align)
        return self.classifier(torch.cat([self.project(low), high], 1))


class DeepLabV3Plus(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes, ~H/4, ~W/4). `labels` brings them to the image's size.

    Encoder-Decoder with Atrous Separable Convolution, Chen et al. 2018 (arXiv 1802.02611); as in the named project, the
    pyramid's convolutions are not separable.

    output_stride : 16 or 8, of the encoder
    upsampling : of the encoder's features, before the decoder: "bilinear" as published; "nearest" is what the array does,
        if height and width are multiples of 16 (and wants fine-tuning)
    activation : of the MobileNetV2 backbone: "relu6" as published, or "relu"
    """

    def __init__(
        self, backbone: str, num_classes: int = 21, output_stride: int = 16, upsampling: str = "bilinear", activation: str = "relu6"
    ):
        super().__init__()
        positive("num_classes", num_classes)
        choice("output_stride", output_stride, (8, 16))
        choice("upsampling", upsampling, ("bilinear", "nearest"))
        choice("activation", activation, ("relu", "relu6"))
        rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
        network = _ResNet50 if backbone == "resnet50" else _MobileNetV2
        self.backbone = network(output_stride, activation)
        self.classifier = _Decoder(network.low, network.high, num_classes, rates, upsampling)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(*self.backbone(x))


def labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of each pixel of an image of `size` (height, width): logits (N, classes, h, w) -> int64 (N, height, width)."""
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


for _backbone in ("resnet50", "mobilenet"):
    add(
        Entry(
            f"deeplabv3plus_{_backbone}",
            DeepLabV3Plus,
            dict(backbone=_backbone),
            (3, 513, 513),
            "VainF/DeepLabV3Plus-Pytorch",
            "arXiv 1802.02611",
            IMAGENET,
            dict(upsampling="nearest"),
        )
    )
