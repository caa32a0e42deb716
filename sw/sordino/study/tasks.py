"""Tasks that a study runs on: networks small enough for hundreds of trainings on a CPU."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..data import Split, digits, video
from ..tasks.digits import DigitsNet, jitter
from ..train import Transform

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


class Frames(nn.Sequential):
    """Frames of 16x16 pixels: 1, 16, 32, 32 channels with strides."""

    def __init__(self) -> None:
        super().__init__()
        for i, (cin, cout, stride) in enumerate(((1, 16, 1), (16, 32, 2), (32, 32, 2)), 1):
            self.add_module(f"conv{i}", nn.Conv2d(cin, cout, 3, stride, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(cout))
            self.add_module(f"relu{i}", nn.ReLU())
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(32 * 4 * 4, 10))


def _video() -> Split:
    return video(frames=4, size=16)


STUDY_TASKS = {
    t.name: t
    for t in (
        StudyTask("digits", "the demo's network on the digits", DigitsNet, digits, jitter),
        StudyTask("digits-wide", "a small network of unequal layers on the digits", Wide, digits, jitter),
        StudyTask("digits-bottleneck", "1x1 and 3x3 layers in turn, on the digits", Bottleneck, digits, jitter),
        StudyTask("video", "which digit moves? clips of 4 frames, camera at rest", Frames, _video, clips=True),
    )
}
"""Every task by name."""
