"""KITTI object detection, left colour images (https://www.cvlibs.net/datasets/kitti/eval_object.php)."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .layout import Folder, Layout, Transform, as_tensor, boxes_within, read_image, read_lines

__all__ = ["KITTI"]

LAYOUT = Layout(
    "KITTI",
    "ROOT/training/image_2/*.png, ROOT/training/label_2/*.txt, ROOT/testing/image_2/*.png; for the splits 'train' and 'val' "
    "also ROOT/ImageSets/train.txt and val.txt, names of training images, one a line",
)
CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
IGNORED = "DontCare"
FIELDS = 15


class KITTI(Folder):
    """Pairs of image [3, h, w] and {"boxes", "labels", "truncated", "occluded", "ignored"}.

    boxes float32 [n, 4] (x0, y0, x1, y1) in pixels; labels int64 [n], indices into `classes`; truncated float32 [n],
    0 to 1; occluded int64 [n], 0 to 3; ignored float32 [m, 4]: the "DontCare" regions. "testing" has no labels: n = m = 0.

    split : "training" (all labelled images), "testing", or "train" and "val" by lists in ImageSets: KITTI publishes no such division
    """

    classes = CLASSES

    def __init__(self, root: str | os.PathLike, split: str = "training", *, transform: Transform | None = None):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("training", "testing", "train", "val"))
        root = LAYOUT.directory(root)
        folder = LAYOUT.directory(root / ("testing" if split == "testing" else "training"))
        images = LAYOUT.directory(folder / "image_2")
        if split in ("train", "val"):
            listed = LAYOUT.file(root / "ImageSets" / f"{split}.txt")
            self._images = [LAYOUT.inside(images, f"{name}.png", listed) for name in read_lines(listed)]
        else:
            self._images = sorted(images.glob("*.png"))
        if not self._images:
            raise LAYOUT.error(f"split {split!r} of {root} holds no image")
        self._labels: list[Path] | None = None
        if split != "testing":
            labels = LAYOUT.directory(folder / "label_2")
            self._labels = [LAYOUT.file(labels / f"{image.stem}.txt") for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def _load(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = read_image(self._images[index])
        objects = _objects(self._labels[index]) if self._labels else []
        regions = [o["box"] for o in objects if o["type"] == IGNORED]
        objects = [o for o in objects if o["type"] != IGNORED]
        where = str(self._labels[index]) if self._labels else ""
        return as_tensor(image), {
            "boxes": boxes_within([o["box"] for o in objects], *image.size, where),
            "labels": torch.tensor([CLASSES.index(o["type"]) for o in objects], dtype=torch.int64),
            "truncated": torch.tensor([o["truncated"] for o in objects], dtype=torch.float32),
            "occluded": torch.tensor([o["occluded"] for o in objects], dtype=torch.int64),
            "ignored": boxes_within(regions, *image.size, where),
        }


def _objects(path: Path) -> list[dict[str, Any]]:
    """type, truncated, occluded and box of each line; the 3-D fields are counted and left."""
    out = []
    for number, line in enumerate(read_lines(path), 1):
        kind, *fields = line.split()
        try:
            values = [float(f) for f in fields]
        except ValueError as error:
            raise LAYOUT.error(f"{path}, line {number}: {error}") from error
        if len(fields) != FIELDS - 1:
            raise LAYOUT.error(f"{path}, line {number} has {len(fields) + 1} fields, not {FIELDS}")
        if kind not in (*CLASSES, IGNORED):
            raise LAYOUT.error(f"{path}, line {number}: unknown type {kind!r}; the types are {', '.join((*CLASSES, IGNORED))}")
        truncated, occluded = values[:2]
        if kind != IGNORED and not (0 <= truncated <= 1 and occluded in (0, 1, 2, 3)):
            raise LAYOUT.error(f"{path}, line {number}: truncation {truncated:g} (of 0 to 1) or occlusion {occluded:g} (of 0 to 3)")
        out.append({"type": kind, "truncated": truncated, "occluded": occluded, "box": tuple(values[3:7])})
    return out
