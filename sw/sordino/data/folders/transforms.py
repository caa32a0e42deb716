"""What batches of the folder loaders need: one size, and boxes that stay per image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sordino_hw.spec.errors import InputError

__all__ = ["Resize", "collate"]


class Resize:
    """A `transform` to one size (height, width): images and clips bilinear (antialiased), index images by nearest
    pixel, the "boxes" of a target scaled along; other targets stay as they are."""

    def __init__(self, height: int, width: int):
        if not (type(height) is type(width) is int and height > 0 and width > 0):
            raise InputError(f"Resize: height and width must be positive integers, not {height!r} and {width!r}")
        self.size = (height, width)

    def __call__(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """image float [c, h, w] or [t, c, h, w]."""
        y, x = (new / old for new, old in zip(self.size, image.shape[-2:], strict=True))
        batch = image if image.ndim == 4 else image[None]
        batch = functional.interpolate(batch, self.size, mode="bilinear", align_corners=False, antialias=True)
        if isinstance(target, Tensor) and target.ndim == 2:
            target = functional.interpolate(target[None, None].double(), self.size, mode="nearest-exact")[0, 0].to(target.dtype)
        elif isinstance(target, dict) and "boxes" in target:
            target = {**target, "boxes": target["boxes"] * torch.tensor([x, y, x, y])}
        return (batch if image.ndim == 4 else batch[0]), target


def collate(batch: list[tuple[Tensor, Any]]) -> tuple[Tensor, list[Any]]:
    """For a `DataLoader` over detection data: images stacked, targets a list. Raises `InputError` if sizes differ."""
    shapes = {tuple(image.shape) for image, _ in batch}
    if len(shapes) != 1:
        raise InputError(
            f"collate: a batch needs images of one shape, not {sorted(shapes)}. Give the data set transform=Resize(h, w)."
        )
    return torch.stack([image for image, _ in batch]), [target for _, target in batch]
