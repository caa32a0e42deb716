"""Images of one's own for a classifier: one folder for each class."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .layout import Folder, Layout, Transform, as_tensor, read_image

__all__ = ["ClassFolders"]

LAYOUT = Layout(
    "class folders", "ROOT/train/<class>/*.png (or .jpg), and if there are any ROOT/val/<class>/* and ROOT/test/<class>/*"
)
SUFFIXES = (".jpeg", ".jpg", ".png")


class ClassFolders(Folder):
    """Pairs of image [channels, height, width] and label, the rank of its class among the sorted names in train/ (`classes`).

    Images are scaled to `size`, bilinear, whatever their proportions, and are grey with `channels` 1 and RGB with 3. Values are 0 to 1.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        *,
        size: tuple[int, int],
        channels: int = 3,
        transform: Transform | None = None,
    ):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "val", "test"))
        if channels not in (1, 3):
            raise InputError(f"{LAYOUT.name}: channels must be 1 (grey) or 3 (RGB), not {channels!r}")
        if min(size) < 1:
            raise InputError(f"{LAYOUT.name}: size must be positive, not {size!r}")
        self.size, self.channels = size, channels
        root = LAYOUT.directory(root)
        self.classes = _names(LAYOUT.directory(root / "train"))
        folder = LAYOUT.directory(root / split)
        own = _names(folder)
        if unknown := sorted(set(own) - set(self.classes)):
            raise LAYOUT.error(f"class {unknown[0]!r} of {folder} is not in {root / 'train'}, which numbers the classes")
        rank = {name: i for i, name in enumerate(self.classes)}
        self._items = [(path, rank[name]) for name in own for path in _images(folder / name)]

    def __len__(self) -> int:
        return len(self._items)

    def _load(self, index: int) -> tuple[Tensor, int]:
        path, label = self._items[index]
        image = read_image(path).resize(self.size[::-1], Image.Resampling.BILINEAR)
        if self.channels == 3:
            return as_tensor(image), label
        return torch.from_numpy(np.asarray(image.convert("L"), np.float32) / 255)[None], label


def _names(folder: Path) -> list[str]:
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    if len(names) < 1:
        raise LAYOUT.error(f"{folder} holds no class folders; sort its images into one folder for each class")
    return names


def _images(folder: Path) -> list[Path]:
    paths = sorted(Path(e.path) for e in os.scandir(folder) if e.name.lower().endswith(SUFFIXES))
    if not paths:
        raise LAYOUT.error(f"folder {folder} holds no image")
    return paths
