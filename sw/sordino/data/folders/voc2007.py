"""PASCAL VOC 2007, detection and segmentation (http://host.robots.ox.ac.uk/pascal/VOC/voc2007/)."""

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from .layout import Folder, Layout, Transform, as_tensor, boxes_within, read_image, read_index_image, read_lines, read_xml

__all__ = ["VOC2007"]

LAYOUT = Layout(
    "VOC2007",
    "ROOT/VOCdevkit/VOC2007/ with JPEGImages/*.jpg, Annotations/*.xml and ImageSets/Main/*.txt (detection), SegmentationClass/*.png and "
    "ImageSets/Segmentation/*.txt (segmentation); ROOT may be VOCdevkit or VOC2007 itself",
)
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BORDER = 255


class VOC2007(Folder):
    """Pairs of image [3, h, w] and target.

    task "detection": {"boxes", "labels", "difficult"}: float32 [n, 4] (x0, y0, x1, y1) in pixels, from 0 (the files count
    from 1 and include the last pixel); int64 [n], indices into `classes` (20 of them); bool [n].
    task "segmentation": int64 [h, w], 0 background, 1..20 `classes` (21 with "background"), 255 border, to be ignored.

    split : "train", "val", "trainval" or "test"
    """

    def __init__(
        self, root: str | os.PathLike, split: str = "trainval", *, task: str = "detection", transform: Transform | None = None
    ):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "val", "trainval", "test"))
        self.task = LAYOUT.choice("task", task, ("detection", "segmentation"))
        root = LAYOUT.directory(root)
        tried = (root / "VOCdevkit" / "VOC2007", root / "VOC2007", root)
        folder = next((f for f in tried if (f / "JPEGImages").is_dir()), None)
        if folder is None:
            raise LAYOUT.error(f"folder {tried[0] / 'JPEGImages'} is missing")
        detection = task == "detection"
        self.classes = CLASSES if detection else ("background", *CLASSES)
        listed = LAYOUT.file(folder / "ImageSets" / ("Main" if detection else "Segmentation") / f"{split}.txt")
        targets, suffix = (folder / "Annotations", ".xml") if detection else (folder / "SegmentationClass", ".png")
        LAYOUT.directory(targets)
        self._items = [
            (LAYOUT.inside(folder / "JPEGImages", f"{name}.jpg", listed), LAYOUT.inside(targets, name + suffix, listed))
            for name in read_lines(listed)
        ]
        if not self._items:
            raise LAYOUT.error(f"{listed} names no image")

    def __len__(self) -> int:
        return len(self._items)

    def _load(self, index: int) -> tuple[Tensor, Any]:
        path, target = self._items[index]
        image = read_image(path)
        if self.task == "detection":
            return as_tensor(image), _annotation(target, *image.size)
        mask = read_index_image(target)
        if mask.shape != (image.height, image.width):
            raise LAYOUT.error(f"{target} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {image.width}x{image.height}")
        if (bad := mask[(mask > len(CLASSES)) & (mask != BORDER)]).numel():
            raise LAYOUT.error(f"{target} holds class {int(bad[0])}; classes are 0..{len(CLASSES)} and {BORDER}")
        return as_tensor(image), mask


def _annotation(path: Path, width: int, height: int) -> dict[str, Tensor]:
    def text(parent: ElementTree.Element, name: str) -> str:
        element = parent.find(name)
        if element is None or not (element.text or "").strip():
            raise LAYOUT.error(f"{path}: an object without <{name}>")
        return (element.text or "").strip()

    boxes, labels, difficult = [], [], []
    for thing in read_xml(path).iter("object"):
        name = text(thing, "name")
        if name not in CLASSES:
            raise LAYOUT.error(f"{path}: unknown class {name!r}; the classes are {', '.join(CLASSES)}")
        sides = [text(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = map(float, sides)
        except ValueError as error:
            raise LAYOUT.error(f"{path}: {error}") from error
        boxes.append((x0 - 1, y0 - 1, x1, y1))
        labels.append(CLASSES.index(name))
        difficult.append(thing.find("difficult") is not None and text(thing, "difficult") == "1")
    return {
        "boxes": boxes_within(boxes, width, height, str(path)),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "difficult": torch.tensor(difficult, dtype=torch.bool),
    }
