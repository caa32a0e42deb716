"""YOLOX with the parameter names of the Megvii project; its boxes in plain torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import activation_module, choice, positive
from .boxes import Detections, suppress
from .registry import Entry, add

__all__ = ["YOLOX", "detections"]

STRIDES = (8, 16, 32)
_STEM = "backbone.backbone.stem.conv.conv.weight"


class _Conv(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, activation: str, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class _Separable(nn.Module):
    """A depthwise and a 1x1 `_Conv`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, activation: str):
        super().__init__()
        self.dconv = _Conv(inputs, inputs, kernel, stride, activation, groups=inputs)
        self.pconv = _Conv(inputs, outputs, 1, 1, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.pconv(self.dconv(x))


_Kind = type[_Conv] | type[_Separable]


class _Focus(nn.Module):
    """The stem. Megvii moves 2x2 patches into the channels and convolves 3x3: this is the same as a 6x6 kernel of stride 2."""

    def __init__(self, outputs: int, activation: str):
        super().__init__()
        self.conv = _Conv(3, outputs, 6, 2, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool, kind: _Kind, activation: str):
        super().__init__()
        self.conv1 = _Conv(channels, channels, 1, 1, activation)
        self.conv2 = kind(channels, channels, 3, 1, activation)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class _CSP(nn.Module):
    """Cross-stage partial block: half of the channels go through `count` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, count: int, shortcut: bool, kind: _Kind, activation: str):
        super().__init__()
        hidden = outputs // 2
        self.conv1 = _Conv(inputs, hidden, 1, 1, activation)
        self.conv2 = _Conv(inputs, hidden, 1, 1, activation)
        self.conv3 = _Conv(2 * hidden, outputs, 1, 1, activation)
        self.m = nn.Sequential(*(_Bottleneck(hidden, shortcut, kind, activation) for _ in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))


class _SPP(nn.Module):
    """Spatial pyramid pooling: max pooling over 5, 9 and 13 pixels beside the input."""

    def __init__(self, channels: int, activation: str):
        super().__init__()
        hidden = channels // 2
        self.conv1 = _Conv(channels, hidden, 1, 1, activation)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, padding=k // 2) for k in (5, 9, 13))
        self.conv2 = _Conv(4 * hidden, channels, 1, 1, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class _Darknet(nn.Module):
    """(N, 3, H, W) -> features at strides 8, 16 and 32."""

    dark2: nn.Sequential
    dark3: nn.Sequential
    dark4: nn.Sequential
    dark5: nn.Sequential

    def __init__(self, base: int, depth: int, kind: _Kind, activation: str):
        super().__init__()
        self.stem = _Focus(base, activation)
        for i, count in ((2, depth), (3, 3 * depth), (4, 3 * depth), (5, depth)):
            inputs, outputs = base << (i - 2), base << (i - 1)
            pyramid = [_SPP(outputs, activation)] if i == 5 else []
            block = _CSP(outputs, outputs, count, i != 5, kind, activation)
            self.add_module(f"dark{i}", nn.Sequential(kind(inputs, outputs, 3, 2, activation), *pyramid, block))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.dark3(self.dark2(self.stem(x)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class _Pyramid(nn.Module):
    """The backbone and its path aggregation: features at strides 8, 16 and 32."""

    def __init__(self, base: int, depth: int, kind: _Kind, activation: str):
        super().__init__()
        c3, c4, c5 = 4 * base, 8 * base, 16 * base

        def csp(inputs: int, outputs: int) -> _CSP:
            return _CSP(inputs, outputs, depth, False, kind, activation)

        self.backbone = _Darknet(base, depth, kind, activation)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral_conv0 = _Conv(c5, c4, 1, 1, activation)
        self.C3_p4 = csp(2 * c4, c4)
        self.reduce_conv1 = _Conv(c4, c3, 1, 1, activation)
        self.C3_p3 = csp(2 * c3, c3)
        self.bu_conv2 = kind(c3, c3, 3, 2, activation)
        self.C3_n3 = csp(2 * c3, c4)
        self.bu_conv1 = kind(c4, c4, 3, 2, activation)
        self.C3_n4 = csp(2 * c4, c5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.backbone(x)
        top = self.lateral_conv0(coarse)
        across = self.reduce_conv1(self.C3_p4(torch.cat([self.upsample(top), middle], 1)))
        out3 = self.C3_p3(torch.cat([self.upsample(across), fine], 1))
        out4 = self.C3_n3(torch.cat([self.bu_conv2(out3), across], 1))
        out5 = self.C3_n4(torch.cat([self.bu_conv1(out4), top], 1))
        return out3, out4, out5


class _Head(nn.Module):
    """The decoupled head: for each stride boxes (4), objectness (1) and class logits, as maps."""

    def __init__(self, base: int, num_classes: int, kind: _Kind, activation: str):
        super().__init__()
        width = 4 * base

        def tower() -> nn.Sequential:
            return nn.Sequential(*(kind(width, width, 3, 1, activation) for _ in range(2)))

        self.stems = nn.ModuleList(_Conv(base * s // 2, width, 1, 1, activation) for s in STRIDES)
        self.cls_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.reg_convs = nn.ModuleList(tower() for _ in STRIDES)
        self.cls_preds = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in STRIDES)
        self.reg_preds = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in STRIDES)
        self.obj_preds = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in STRIDES)
        rare = -math.log((1 - 0.01) / 0.01)  # at first everything is background, with probability 0.99
        for conv in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(conv.bias, rare)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for k, x in enumerate(features):
            x = self.stems[k](x)
            region = self.reg_convs[k](x)
            maps += [self.reg_preds[k](region), self.obj_preds[k](region), self.cls_preds[k](self.cls_convs[k](x))]
        return tuple(maps)


class YOLOX(nn.Module):
    """(N, 3, H, W), H and W multiples of 32 -> 9 maps: boxes (N, 4, h, w), objectness (N, 1, h, w) and classes
    (N, num_classes, h, w), raw, at strides 8, 16 and 32. `detections` makes boxes of them.

    YOLOX: Exceeding YOLO Series in 2021, Ge et al. (arXiv 2107.08430).

    depth, width : multiples of the depth and width of YOLOX-l
    depthwise : separable convolutions (nano)
    activation : "silu" as published, which `sparsify` replaces on request, or "relu", in which silence costs nothing

    The parameters are Megvii's but for the stem, whose kernel (C, 12, 3, 3) on 2x2 patches is kept as the equal kernel
    (C, 3, 6, 6) on pixels. `load_state_dict` and `load_checkpoint` take either.
    """

    def __init__(self, depth: float, width: float, depthwise: bool = False, num_classes: int = 80, activation: str = "silu"):
        super().__init__()
        positive("num_classes", num_classes)
        choice("activation", activation, ("silu", "relu"))
        kind: _Kind = _Separable if depthwise else _Conv
        base, blocks = int(64 * width), max(round(3 * depth), 1)
        self.backbone = _Pyramid(base, blocks, kind, activation)
        self.head = _Head(base, num_classes, kind, activation)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.head(self.backbone(x))

    @staticmethod
    def adapt(state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of Megvii's, with the stem's kernel as it is kept here; one of ours stays as it is."""
        state = dict(state)
        kernel = state.get(_STEM)
        if kernel is not None and kernel.dim() == 4 and kernel.shape[1:] == (12, 3, 3):
            # Patches lie in the order top left, bottom left, top right, bottom right: (column, row) of the pixel.
            patches = kernel.view(-1, 2, 2, 3, 3, 3)  # C, column, row, colour, ky, kx
            state[_STEM] = patches.permute(0, 3, 4, 2, 5, 1).reshape(-1, 3, 6, 6)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        return super().load_state_dict(self.adapt(state_dict), strict, assign)


@torch.no_grad()
def detections(
    outputs: Sequence[Tensor], score: float = 0.25, overlap: float = 0.45, candidates: int = 1000, most: int = 300
) -> list[Detections]:
    """The boxes of each image, from the 9 maps of `YOLOX` (float); labels start at 0.

    score : least objectness x class probability; overlap : greatest intersection over union of two boxes of one class;
    candidates : boxes before, and most : boxes after non-maximum suppression.
    """
    parts = []
    for stride, regions, objects, classes in zip(STRIDES, outputs[0::3], outputs[1::3], outputs[2::3], strict=True):
        h, w = regions.shape[2:]
        y, x = torch.meshgrid(torch.arange(h, device=regions.device), torch.arange(w, device=regions.device), indexing="ij")
        centres = (regions[:, :2] + torch.stack([x, y])) * stride
        sizes = regions[:, 2:].exp() * stride
        joined = [centres - sizes / 2, centres + sizes / 2, objects.sigmoid() * classes.sigmoid()]
        parts.append(torch.cat(joined, 1).flatten(2))
    found = []
    for rows in torch.cat(parts, 2).transpose(1, 2):
        best, labels = rows[:, 4:].max(1)
        above = torch.nonzero(best > score).flatten()
        above = above[best[above].topk(min(candidates, len(above))).indices]
        found.append(suppress(rows[above, :4], best[above], labels[above], overlap, most))
    return found


for _name, _size, _variant in (
    ("yolox_nano", 416, dict(depth=0.33, width=0.25, depthwise=True)),
    ("yolox_tiny", 416, dict(depth=0.33, width=0.375, depthwise=False)),
    ("yolox_s", 640, dict(depth=0.33, width=0.5, depthwise=False)),
):
    add(Entry(_name, YOLOX, _variant, (3, _size, _size), "Megvii-BaseDetection/YOLOX", "arXiv 2107.08430", "BGR, 0 to 255"))
