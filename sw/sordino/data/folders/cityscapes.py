"""Cityscapes, fine annotations (https://www.cityscapes-dataset.com)."""

import os

import torch
from torch import Tensor

from .layout import Folder, Layout, Transform, as_tensor, read_image, read_index_image

__all__ = ["Cityscapes"]

LAYOUT = Layout(
    "Cityscapes",
    "ROOT/leftImg8bit/<train|val|test>/<city>/*_leftImg8bit.png and ROOT/gtFine/<train|val|test>/<city>/*_gtFine_labelIds.png",
)
CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain"),
    *("sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each class, in the order of the training ids (cityscapesScripts, helpers/labels.py)."""
IDS, IGNORED = 34, 255


class Cityscapes(Folder):
    """Pairs of image [3, h, w] and int64 [h, w]: training ids 0..18 (`classes`), 255 to be ignored.

    split : "train", "val" or "test", whose published annotations are void throughout (all 255)
    """

    classes = CLASSES

    def __init__(self, root: str | os.PathLike, split: str = "train", *, transform: Transform | None = None):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "val", "test"))
        root = LAYOUT.directory(root)
        images = LAYOUT.directory(root / "leftImg8bit" / split)
        masks = LAYOUT.directory(root / "gtFine" / split)
        self._items = [
            (path, LAYOUT.file(masks / path.parent.name / path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")))
            for path in sorted(images.glob("*/*_leftImg8bit.png"))
        ]
        if not self._items:
            raise LAYOUT.error(f"{images} holds no <city>/*_leftImg8bit.png")
        self._table = torch.full((IDS,), IGNORED)
        self._table[list(CLASS_IDS)] = torch.arange(len(CLASSES))

    def __len__(self) -> int:
        return len(self._items)

    def _load(self, index: int) -> tuple[Tensor, Tensor]:
        path, target = self._items[index]
        image, ids = read_image(path), read_index_image(target)
        if ids.shape != (image.height, image.width):
            raise LAYOUT.error(f"{target} has {ids.shape[1]}x{ids.shape[0]} pixels, its image {image.width}x{image.height}")
        if int(ids.max()) >= IDS:
            raise LAYOUT.error(f"{target} holds label id {int(ids.max())}; ids are 0..{IDS - 1}")
        return as_tensor(image), self._table[ids]
