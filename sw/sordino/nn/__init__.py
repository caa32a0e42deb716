"""Layers and penalties that make activations sparse; one file per method."""

from .arts import ARTS
from .base import METHODS, SparseActivation, density, layer_inputs, method, penalty, register, sites
from .cats import CATS
from .channel_thresholds import ChannelThresholds
from .dal import DAL
from .fanout import fan_out
from .fatrelu import FATReLU, SweepPoint, sweep_thresholds
from .hoyer import Hoyer
from .l1 import L1
from .learned import Learned, hard_threshold
from .ops import round_to_step, threshold_relu
from .relu import PlainReLU
from .star import STAR, search_thresholds
from .temporal import Clips, Temporal, changes, frames
from .transformed_l1 import TransformedL1
from .wta import WTA, WTADifference

__all__ = [
    "ARTS",
    "CATS",
    "DAL",
    "L1",
    "METHODS",
    "STAR",
    "WTA",
    "ChannelThresholds",
    "Clips",
    "FATReLU",
    "Hoyer",
    "Learned",
    "PlainReLU",
    "SparseActivation",
    "SweepPoint",
    "Temporal",
    "TransformedL1",
    "WTADifference",
    "changes",
    "density",
    "fan_out",
    "frames",
    "hard_threshold",
    "layer_inputs",
    "method",
    "penalty",
    "register",
    "round_to_step",
    "search_thresholds",
    "sites",
    "sweep_thresholds",
    "threshold_relu",
]
