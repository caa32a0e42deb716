"""What detectors do with the maps of their heads, in plain torch: overlap and non-maximum suppression of boxes."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Detections", "box_iou", "nms", "suppress"]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first."""

    boxes: Tensor
    """Float (K, 4): left, top, right, bottom in pixels of the network's input."""
    scores: Tensor
    """Float (K,), 0 to 1."""
    labels: Tensor
    """int64 (K,)."""


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (K, 4) and (L, 4), left, top, right, bottom: (K, L); 0 where both are empty."""
    shared = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp(min=0).prod(2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).clamp(min=0).prod(1) for x in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared).clamp(min=torch.finfo(a.dtype).tiny)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: indices, best first, of boxes (K, 4) that overlap no better kept one by more than `threshold`."""
    order = scores.argsort(descending=True, stable=True)
    rivals = (box_iou(boxes[order], boxes[order]) > threshold).triu(1)
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if alive[i]:
            alive &= ~rivals[i]
    return order[alive]


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float, most: int) -> Detections:
    """`nms` within each class; then the best `most` of all classes."""
    kept = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    kept = [k[nms(boxes[k], scores[k], overlap)] for k in kept]
    index = torch.cat(kept) if kept else labels.new_zeros(0, dtype=torch.int64)
    index = index[scores[index].argsort(descending=True, stable=True)[:most]]
    return Detections(boxes[index], scores[index], labels[index])
