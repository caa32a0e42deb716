"""Data sets, as tensors."""

from .digits import Split, digits
from .folders import CIFAR100, KITTI, UCF101, VOC2007, Cityscapes, ClassFolders, ImageNet, Resize, collate
from .video import redundancy, video

__all__ = [
    "CIFAR100",
    "KITTI",
    "UCF101",
    "VOC2007",
    "Cityscapes",
    "ClassFolders",
    "ImageNet",
    "Resize",
    "Split",
    "collate",
    "digits",
    "redundancy",
    "video",
]
