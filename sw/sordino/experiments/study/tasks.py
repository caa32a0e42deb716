"""Tasks that a study runs on: networks small enough for hundreds of trainings on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data import Split, digits, video
from ...train import Transform
from ..tasks.digits import DigitsNet, jitter

__all__ = ["STUDY_TASKS", "StudyTask"]


@dataclass(frozen=True)
class StudyTask:
    """A network and its data. With `clips` the images are (n, time, c, h, w), and the network runs frame by frame."""

    name: str
    summary: str
    build: Callable[[], nn.Module]
    data: Callable[[], Split]
    augment: Transform | None = None
    clips: bool = False


class Wide(nn.Sequential):
    """Channels 1, 16, 64, 8, with pooling: an event of the first activation meets two groups of 32 output channels in a
    3x3 window, one of the second a single word, though fan-out says 576 and 8."""

    def __init__(self) -> None:
        super().__init__()
        for i, (cin, cout, kernel) in enumerate(((1, 16, 3), (16, 64, 3), (64, 8, 1)), 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.ReLU())
            if i == 1:
                self.add_module("pool", nn.MaxPool2d(2))
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(8 * 4 * 4, 10))


class Bottleneck(nn.Sequential):
    """Alternating 1x1 and 3x3 convolutions of 8 and 48 channels: the 1x1 layers from 8 to 48 are bound by their
    post-processing, so that events of their inputs cost little on the array."""

    def __init__(self) -> None:
        super().__init__()
        layers = ((1, 24, 3, 1), (24, 8, 1, 1), (8, 48, 1, 1), (48, 8, 3, 2), (8, 48, 1, 1))
        for i, (cin, cout, kernel, stride) in enumerate(layers, 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("pool", nn.AvgPool2d(2))
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(48 * 2 * 2, 10))


class Unequal(nn.Sequential):
    """Convolutions without batch normalisation whose events cost what fan-out does not say; `layers` are (channels in,
    out, kernel, stride). On lanes of 32 output channels an event costs kernel**2 / stride**2 cycles up to 32 of them."""

    def __init__(self, layers: tuple[tuple[int, int, int, int], ...], size: int) -> None:
        super().__init__()
        for i, (cin, cout, kernel, stride) in enumerate(layers, 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, kernel, stride, kernel // 2))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(layers[-1][1] * size**2, 10))


def _mixed() -> nn.Module:
    """Fan-out 72, 32, 288, 10; cycles an event 9, 1, 2.25, 1."""
    return Unequal(((1, 16, 3, 1), (16, 8, 3, 1), (8, 32, 1, 1), (32, 32, 3, 2)), 4)


def _strided() -> nn.Module:
    """Fan-out 288, 72, 96, 10; cycles an event 2.25, 9, 3, 1."""
    return Unequal(((1, 32, 3, 1), (32, 32, 3, 2), (32, 8, 3, 1), (8, 96, 1, 1)), 4)


class Frames(nn.Sequential):
    """Frames of 32x32 pixels: 1, 8, 16, 32, 32 channels with strides. A temporal method has a layer on the pixels too:
    it takes the place of `input`."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("input", nn.Identity())
        for i, (cin, cout, stride) in enumerate(((1, 8, 2), (8, 16, 1), (16, 32, 2), (32, 32, 2)), 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(32 * 4 * 4, 10))


def negative(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every second clip as its negative, at random: bright ink on dark ground is as good as dark on bright."""
    flip = (torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator) < 0.5).to(x.dtype)
    return x + flip * (1 - 2 * x)


def _video(camera: str) -> Callable[[], Split]:
    """Many short clips to train on, long ones to judge with: each training digit eight times over other ground."""

    def load() -> Split:
        long, short = video(camera, clips=(1, 300, 450)), video(camera, clips=(8 * 1047, 1, 1), frames=2)
        return Split(short.train, long.validation, long.test)

    return load


STUDY_TASKS = {
    t.name: t
    for t in (
        StudyTask("digits", "the demo's network on the digits", DigitsNet, digits, jitter),
        StudyTask("digits-wide", "a small network of unequal layers on the digits", Wide, digits, jitter),
        StudyTask("digits-bottleneck", "1x1 and 3x3 layers in turn, on the digits", Bottleneck, digits, jitter),
        StudyTask(
            "digits-mixed", "unequal layers without batch norm: the strided one is cheap, on the digits", _mixed, digits, jitter
        ),
        StudyTask(
            "digits-strided", "unequal layers without batch norm: the widest is cheap, on the digits", _strided, digits, jitter
        ),
        StudyTask("video", "which digit moves? clips, camera at rest", Frames, _video("static"), negative, clips=True),
        StudyTask("video-moving", "which digit moves? clips, camera that pans", Frames, _video("moving"), negative, clips=True),
    )
}
"""Every task by name."""
