"""SSD300 on VGG-16 with the parameter names of torchvision's `ssd300_vgg16`; its boxes in plain torch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import positive
from .boxes import Detections, suppress
from .registry import Entry, add
from .vgg import features

__all__ = ["SSD300", "default_boxes", "detections"]

SIZE = 300
_CHANNELS = (512, 1024, 512, 256, 256, 256)
_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
"""Aspect ratios of the default boxes of each map, beside 1 and the inverses."""
_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
_STEPS = (8, 16, 32, 64, 100, 300)
_ANCHORS = tuple(2 + 2 * len(r) for r in _RATIOS)


def _extra(inputs: int, narrow: int, outputs: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, outputs, 3, stride, padding), nn.ReLU())


class _Backbone(nn.Module):
    """(N, 3, 300, 300) -> six maps of 38, 19, 10, 5, 3 and 1 pixels across."""

    def __init__(self, normalise: bool):
        super().__init__()
        vgg = list(features(16))
        pools = [i for i, m in enumerate(vgg) if isinstance(m, nn.MaxPool2d)]
        vgg[pools[2]] = nn.MaxPool2d(2, 2, ceil_mode=True)  # 75 pixels to 38, as in the paper
        self.normalise = normalise
        self.scale_weight = nn.Parameter(torch.full((512,), 20.0 if normalise else 1.0))
        self.features = nn.Sequential(*vgg[: pools[3]])
        fc = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
        )
        self.extra = nn.ModuleList(
            [
                nn.Sequential(*vgg[pools[3] : pools[4]], fc),
                _extra(1024, 256, 512, stride=2, padding=1),
                _extra(512, 128, 256, stride=2, padding=1),
                _extra(256, 128, 256),
                _extra(256, 128, 256),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.features(x)
        first = nn.functional.normalize(x) if self.normalise else x
        maps = [first * self.scale_weight.view(1, -1, 1, 1)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


class _Scores(nn.Module):
    """One 3x3 convolution for each map, with `columns` values for each default box."""

    def __init__(self, columns: int):
        super().__init__()
        self.module_list = nn.ModuleList(nn.Conv2d(c, a * columns, 3, padding=1) for c, a in zip(_CHANNELS, _ANCHORS, strict=True))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.module_list, maps, strict=True)]


class _Head(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.classification_head = _Scores(num_classes)
        self.regression_head = _Scores(4)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, ...]:
        return (*self.classification_head(maps), *self.regression_head(maps))


class SSD300(nn.Module):
    """(N, 3, 300, 300) -> 12 maps: class scores (N, boxes x num_classes, h, w) of the six maps, then offsets (N, boxes x 4, h, w).

    SSD: Single Shot MultiBox Detector, Liu et al. 2015 (arXiv 1512.02325). `detections` makes boxes of the maps.

    num_classes : the background, class 0, included
    normalise : the first map is divided by its L2 norm across the channels, as published. The array cannot: with False
        only the learned factor for each channel is left, which compiles, but has to be fine-tuned
    """

    def __init__(self, num_classes: int = 91, normalise: bool = True):
        super().__init__()
        positive("num_classes", num_classes)
        self.backbone = _Backbone(normalise)
        self.head = _Head(num_classes)
        for module in (*self.backbone.extra.modules(), *self.head.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.backbone(x))


def default_boxes(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Default boxes of six maps of `sizes` (h, w), as (K, 4): centre x, centre y, width, height in pixels of the input.

    Order: map, row, column, box; two squares (scales s_k and sqrt(s_k s_k+1)), then each aspect ratio and its inverse.
    Widths and heights are clamped to the image.
    """
    found = []
    for k, (h, w) in enumerate(sizes):
        s = _SCALES[k]
        pairs = [(s, s), (math.sqrt(s * _SCALES[k + 1]),) * 2]
        for ratio in _RATIOS[k]:
            root = math.sqrt(ratio)
            pairs += [(s * root, s / root), (s / root, s * root)]
        shapes = torch.tensor(pairs).clamp(0, 1) * SIZE
        y, x = torch.meshgrid((torch.arange(h) + 0.5) * _STEPS[k], (torch.arange(w) + 0.5) * _STEPS[k], indexing="ij")
        centres = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, len(pairs), -1)
        found.append(torch.cat([centres, shapes.expand(len(centres), -1, -1)], -1).reshape(-1, 4))
    return torch.cat(found)


@torch.no_grad()
def detections(
    outputs: Sequence[Tensor], score: float = 0.01, overlap: float = 0.45, candidates: int = 400, most: int = 200
) -> list[Detections]:
    """The boxes of each image, from the 12 maps of `SSD300` (float).

    score : least probability; overlap : greatest intersection over union of two boxes of one class;
    candidates : boxes of each class before, and most : boxes of all classes after non-maximum suppression.
    Labels start at 1: class 0 is the background.
    """
    maps, offsets = outputs[:6], outputs[6:]
    logits = torch.cat([_rows(m, a) for m, a in zip(maps, _ANCHORS, strict=True)], 1)
    shifts = torch.cat([_rows(m, a) for m, a in zip(offsets, _ANCHORS, strict=True)], 1)
    anchors = default_boxes([(m.shape[2], m.shape[3]) for m in maps]).to(logits.device)
    boxes = _decode(shifts, anchors).clamp(0, SIZE)
    found = []
    for image_boxes, probabilities in zip(boxes, logits.softmax(-1), strict=True):
        index, labels = [], []
        for label in range(1, probabilities.shape[1]):
            column = probabilities[:, label]
            above = torch.nonzero(column > score).flatten()
            best = above[column[above].topk(min(candidates, len(above))).indices]
            index.append(best)
            labels.append(torch.full_like(best, label))
        rows, classes = torch.cat(index), torch.cat(labels)
        found.append(suppress(image_boxes[rows], probabilities[rows, classes], classes, overlap, most))
    return found


def _rows(values: Tensor, anchors: int) -> Tensor:
    """(N, anchors x columns, h, w) -> (N, h w anchors, columns)."""
    n, channels, h, w = values.shape
    return values.view(n, anchors, channels // anchors, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, channels // anchors)


def _decode(shifts: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (N, K, 4) in units of a tenth of the box (centres) and a fifth of its logarithm (sizes) -> corners."""
    centres = anchors[:, :2] + shifts[..., :2] / 10 * anchors[:, 2:]
    sizes = anchors[:, 2:] * (shifts[..., 2:] / 5).clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


add(
    Entry(
        "ssd300_vgg16",
        SSD300,
        {},
        (3, SIZE, SIZE),
        "torchvision",
        "arXiv 1512.02325",
        "RGB, 0 to 255, less (123, 117, 104)",
        dict(normalise=False),
    )
)
