"""Data sets, as tensors."""

from .digits import Split, digits
from .video import redundancy, video

__all__ = ["Split", "digits", "redundancy", "video"]
