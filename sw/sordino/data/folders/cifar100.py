"""CIFAR-100, binary version (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .layout import Folder, Layout, Transform, read_lines

__all__ = ["CIFAR100"]

LAYOUT = Layout(
    "CIFAR-100",
    "ROOT/cifar-100-binary/ (or ROOT itself) with train.bin, test.bin, coarse_label_names.txt and fine_label_names.txt, "
    "from cifar-100-binary.tar.gz",
)
RECORD = 2 + 3 * 32 * 32
"""Bytes: coarse label, fine label, then the red, green and blue plane."""


class CIFAR100(Folder):
    """Pairs of image [3, 32, 32] and label 0..99 (or 0..19, `coarse=True`); `classes` are the labels' names.

    split : "train" (50,000 images) or "test" (10,000). There is no published validation part.
    """

    def __init__(self, root: str | os.PathLike, split: str = "train", *, coarse: bool = False, transform: Transform | None = None):
        super().__init__(transform)
        LAYOUT.choice("split", split, ("train", "test"))
        root = LAYOUT.directory(root)
        folder = next((f for f in (root / "cifar-100-binary", root) if (f / f"{split}.bin").is_file()), None)
        if folder is None:
            for pickled in (root / "cifar-100-python" / split, root / split):
                if pickled.is_file():
                    raise LAYOUT.error(
                        f"{pickled} is the Python version, a pickle; unpickling a file runs what it says, so this is not read. "
                        f"Take the binary version of the same images"
                    )
            raise LAYOUT.error(f"file {split}.bin is missing in {root}")
        self.coarse = coarse
        self.classes = _names(folder / f"{'coarse' if coarse else 'fine'}_label_names.txt", 20 if coarse else 100)
        self._records = _records(folder / f"{split}.bin")

    def __len__(self) -> int:
        return len(self._records)

    def _load(self, index: int) -> tuple[Tensor, int]:
        record = self._records[index]
        return torch.from_numpy(record[2:].reshape(3, 32, 32)).float() / 255, int(record[0 if self.coarse else 1])


def _names(path: Path, count: int) -> list[str]:
    names = read_lines(LAYOUT.file(path))
    if len(names) != count:
        raise LAYOUT.error(f"{path} has {len(names)} names, not {count}")
    return names


def _records(path: Path) -> np.ndarray:
    size = path.stat().st_size
    if not size or size % RECORD:
        raise LAYOUT.error(f"{path} has {size:,} bytes, not a positive multiple of {RECORD}: it is truncated or another file")
    records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
    for column, count, kind in ((0, 20, "coarse"), (1, 100, "fine")):
        if (bad := np.flatnonzero(records[:, column] >= count)).size:
            raise LAYOUT.error(f"{path}: record {bad[0]} has {kind} label {records[bad[0], column]}, of 0..{count - 1}")
    return records
