"""UCF101, action recognition (https://www.crcv.ucf.edu/data/UCF101.php); videos are decoded by PyAV."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sordino_hw.spec.errors import InputError, ToolError

from .layout import Folder, Layout, Transform, read_lines

__all__ = ["UCF101"]

LAYOUT = Layout(
    "UCF101",
    "ROOT/UCF-101/<Class>/*.avi and ROOT/ucfTrainTestlist/ with classInd.txt, trainlist0N.txt and testlist0N.txt (N = 1, 2, 3)",
)
CONTAINERS = "avi,matroska,mov,mpeg,mpegts"
"""A playlist in a video's clothes could make FFmpeg open other files: only containers that hold their own frames."""
MAX_SIDE = 4096


class UCF101(Folder):
    """Pairs of clip [frames, 3, size, size] and label 0..100; `classes` are the labels' names.

    Parameters
    ----------
    split, fold : "train" or "test" of one of the three published divisions
    frames, stride : a clip is so many frames, every `stride`-th of the video; a video too short repeats its last frame
    start : "centre" of the video, or "random" (by torch's global generator)
    size : the shorter side is scaled to it, bilinear, and the centre is cut out

    Raises `ToolError` if PyAV is not installed.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        *,
        fold: int = 1,
        frames: int = 16,
        stride: int = 1,
        size: int = 112,
        start: str = "centre",
        transform: Transform | None = None,
    ):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "test"))
        self.start = LAYOUT.choice("start", start, ("centre", "random"))
        if fold not in (1, 2, 3):
            raise InputError(f"UCF101: fold must be 1, 2 or 3, not {fold!r}")
        for name, value in (("frames", frames), ("stride", stride), ("size", size)):
            if type(value) is not int or not 0 < value <= MAX_SIDE:
                raise InputError(f"UCF101: {name} must be an integer from 1 to {MAX_SIDE}, not {value!r}")
        self.frames, self.stride, self.size = frames, stride, size
        _av()
        root = LAYOUT.directory(root)
        videos, lists = LAYOUT.directory(root / "UCF-101"), LAYOUT.directory(root / "ucfTrainTestlist")
        self.classes = _classes(LAYOUT.file(lists / "classInd.txt"))
        self._items = _listed(videos, LAYOUT.file(lists / f"{split}list{fold:02d}.txt"), self.classes)

    def __len__(self) -> int:
        return len(self._items)

    def _load(self, index: int) -> tuple[Tensor, int]:
        path, label = self._items[index]
        return self._clip(path), label

    def _clip(self, path: Path) -> Tensor:
        av = _av()
        span = (self.frames - 1) * self.stride + 1
        kept: list[np.ndarray] = []
        try:
            # as an open file: FFmpeg would take a path for a protocol
            with path.open("rb") as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
                if not container.streams.video:
                    raise InputError(f"{path} holds no video")
                spare = max(0, sum(packet.size > 0 for packet in container.demux(video=0)) - span)
            first = spare // 2 if self.start == "centre" else int(torch.randint(spare + 1, ()))
            with path.open("rb") as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
                for i, frame in enumerate(container.decode(video=0)):
                    if i >= first + span:
                        break
                    if max(frame.width, frame.height) > MAX_SIDE:
                        raise InputError(f"{path} has frames of {frame.width}x{frame.height}, more than {MAX_SIDE} a side")
                    if i >= first and (i - first) % self.stride == 0:
                        kept.append(self._cut(frame))
        except (av.FFmpegError, OSError, EOFError) as error:
            raise InputError(f"{path} cannot be decoded: {error}. Copy it anew from its source.") from error
        if not kept:
            raise InputError(f"{path} holds no frame that can be decoded. Copy it anew from its source.")
        kept += kept[-1:] * (self.frames - len(kept))
        return torch.from_numpy(np.stack(kept)).permute(0, 3, 1, 2).float() / 255

    def _cut(self, frame) -> np.ndarray:
        """uint8 [size, size, 3] of a frame."""
        scale = self.size / min(frame.width, frame.height)
        w, h = (max(self.size, round(v * scale)) for v in (frame.width, frame.height))
        x, y = (w - self.size) // 2, (h - self.size) // 2
        pixels = frame.reformat(width=w, height=h, format="rgb24", interpolation="BILINEAR").to_ndarray()
        return pixels[y : y + self.size, x : x + self.size]


def _av():
    try:
        import av
    except ImportError as error:
        raise ToolError(
            "UCF101: decoding video needs PyAV, which is not installed. Install it with: pip install 'sordino[video]'"
        ) from error
    return av


def _classes(path: Path) -> list[str]:
    names = []
    for number, line in enumerate(read_lines(path), 1):
        index, _, name = line.partition(" ")
        if index != str(number) or not name:
            raise LAYOUT.error(f"{path}, line {number}: {line!r} is not '{number} <Class>'")
        names.append(name.strip())
    if not names:
        raise LAYOUT.error(f"{path} names no class")
    return names


def _listed(videos: Path, path: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The videos of a list; lines are `Class/video.avi`, in training lists followed by the class's number."""
    rank = {name: i for i, name in enumerate(classes)}
    items = []
    for number, line in enumerate(read_lines(path), 1):
        name, _, index = line.partition(" ")
        label = rank.get(name.partition("/")[0])
        if label is None:
            raise LAYOUT.error(f"{path}, line {number}: the class of {name!r} is not in classInd.txt")
        if index and index.strip() != str(label + 1):
            raise LAYOUT.error(f"{path}, line {number}: {name!r} has class {index.strip()!r}, classInd.txt says {label + 1}")
        items.append((LAYOUT.inside(videos, name, path), label))
    if not items:
        raise LAYOUT.error(f"{path} names no video")
    return items
