"""PyTorch models as exported graphs in the form that the planner and the quantiser read."""

from .export import capture, evaluation, examples
from .norms import fold_norms, freeze

__all__ = ["capture", "evaluation", "examples", "fold_norms", "freeze"]
