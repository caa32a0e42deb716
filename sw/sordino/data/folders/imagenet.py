"""ImageNet (ILSVRC 2012) as class folders."""

import os
import re
from pathlib import Path

from PIL import Image
from torch import Tensor

from sordino_hw.spec.errors import InputError

from .layout import Folder, Layout, Transform, as_tensor, read_image

__all__ = ["ImageNet"]

LAYOUT = Layout(
    "ImageNet",
    "ROOT/train/<synset>/*.JPEG and ROOT/val/<synset>/*.JPEG, one folder for each synset (n01440764, ...) in both",
)
SYNSET = re.compile(r"n\d{8}")
SUFFIXES = (".jpeg", ".jpg", ".png")


class ImageNet(Folder):
    """Pairs of image [3, size, size] and label, the rank of its synset among the sorted ones; `classes` are the synsets.

    The shorter side is scaled to `resize` (default: 256/224 of `size`), bilinear, and the centre is cut out: the usual
    test protocol. Values are 0 to 1, not normalised. Any subset of the synsets will do; where train/ is there, its
    synsets number the classes of val/ too.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        *,
        size: int = 224,
        resize: int | None = None,
        transform: Transform | None = None,
    ):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "val"))
        self.size, self.resize = size, resize if resize is not None else max(size, round(size * 256 / 224))
        if not (type(size) is int and 0 < size <= self.resize):
            raise InputError(f"ImageNet: size must be a positive integer and resize no less, not {size!r} and {resize!r}")
        root = LAYOUT.directory(root)
        folder = LAYOUT.directory(root / split)
        own = _synsets(folder)
        self.classes = _synsets(root / "train") if (root / "train").is_dir() else own
        if unknown := sorted(set(own) - set(self.classes)):
            raise LAYOUT.error(f"synset {unknown[0]} of {folder} is not in {root / 'train'}, which numbers the classes")
        rank = {name: i for i, name in enumerate(self.classes)}
        self._items = [(path, rank[name]) for name in own for path in _images(folder / name)]

    def __len__(self) -> int:
        return len(self._items)

    def _load(self, index: int) -> tuple[Tensor, int]:
        path, label = self._items[index]
        image = read_image(Path(path))
        scale = self.resize / min(image.size)
        w, h = (max(self.resize, round(v * scale)) for v in image.size)
        x, y = (w - self.size) // 2, (h - self.size) // 2
        image = image.resize((w, h), Image.Resampling.BILINEAR).crop((x, y, x + self.size, y + self.size))
        return as_tensor(image), label


def _synsets(folder: Path) -> list[str]:
    entries = sorted(e.name for e in os.scandir(folder) if not e.name.startswith("."))
    names = [name for name in entries if (folder / name).is_dir()]
    if not names:
        files = f"{len(entries)} files" if entries else "nothing"
        raise LAYOUT.error(f"{folder} holds {files} and no synset folders; sort its images into folders by their synset")
    for name in names:
        if not SYNSET.fullmatch(name):
            raise LAYOUT.error(f"folder {folder / name} is not named after a synset (n and 8 digits)")
    return names


def _images(folder: Path) -> list[str]:
    paths = sorted(e.path for e in os.scandir(folder) if e.name.lower().endswith(SUFFIXES))
    if not paths:
        raise LAYOUT.error(f"folder {folder} holds no image")
    return paths
