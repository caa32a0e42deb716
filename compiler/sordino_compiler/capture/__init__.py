"""PyTorch models as exported graphs in the form that the planner and the quantiser read."""

from .evaluation import evaluation
from .export import capture, export
from .inputs import Call, call_of, shapes_as_zeros
from .models import as_module
from .norms import fold_norms, freeze

__all__ = ["Call", "as_module", "call_of", "capture", "evaluation", "export", "fold_norms", "freeze", "shapes_as_zeros"]
