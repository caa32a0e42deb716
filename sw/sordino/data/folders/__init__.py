"""Data sets that lie in folders as their publishers lay them out, each a `torch.utils.data.Dataset` of pairs.

Nothing is downloaded. Images are float32 [channels, h, w], values 0 to 1. Every loader takes
`transform(image, target) -> (image, target)`, checks at once that each file it will read is there, and raises
`InputError` naming the file and the layout that it expects. Files are data to be judged: nothing is unpickled, no
entity is expanded, no name in a list leaves the root, every label and box is checked against its bounds.
"""

from .cifar100 import CIFAR100
from .cityscapes import Cityscapes
from .classes import ClassFolders
from .imagenet import ImageNet
from .kitti import KITTI
from .transforms import Resize, collate
from .ucf101 import UCF101
from .voc2007 import VOC2007

__all__ = ["CIFAR100", "KITTI", "UCF101", "VOC2007", "Cityscapes", "ClassFolders", "ImageNet", "Resize", "collate"]
