"""A trainer for any module: penalties of sparse layers, an accuracy budget, exact resumption, metrics, several processes."""

from ..progress import progress_bar
from .data import Data, Transform, accuracy
from .history import Epoch, History
from .loop import Hook, fit
from .parallel import is_main

__all__ = ["Data", "Epoch", "History", "Hook", "Transform", "accuracy", "fit", "is_main", "progress_bar"]
