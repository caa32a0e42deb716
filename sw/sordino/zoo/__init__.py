"""Networks with the parameter names of the projects that trained them, so that their checkpoints load.

    model = zoo.model("resnet50", num_classes=100)
    zoo.load_checkpoint(model, "resnet50.pth", skip=["fc."])

Every ReLU is a module of its own, which `sd.sparsify` replaces site by site. Detectors and segmenters end where
the array ends: at the maps of their heads. What follows (boxes, non-maximum suppression, bilinear upsampling) is plain
torch: `ssd.detections`, `yolox.detections`, `deeplab.labels`.
"""

from . import deeplab, mobilenet_v1, mobilenet_v2, pilotnet, resnet, ssd, tiny, vgg, yolox
from .checkpoint import load_checkpoint
from .macs import count_macs
from .registry import Entry, entry, model, names

__all__ = [
    "Entry",
    "count_macs",
    "deeplab",
    "entry",
    "load_checkpoint",
    "mobilenet_v1",
    "mobilenet_v2",
    "model",
    "names",
    "pilotnet",
    "resnet",
    "ssd",
    "tiny",
    "vgg",
    "yolox",
]
