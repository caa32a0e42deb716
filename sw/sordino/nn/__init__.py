"""Layers and penalties that make activations sparse; one file per method."""

from .base import METHODS, SparseActivation, density, method, penalty, register, sites
from .l1 import L1
from .ops import threshold_relu
from .relu import PlainReLU
from .star import STAR, search_thresholds

__all__ = [
    "L1",
    "METHODS",
    "STAR",
    "PlainReLU",
    "SparseActivation",
    "density",
    "method",
    "penalty",
    "register",
    "search_thresholds",
    "sites",
    "threshold_relu",
]
