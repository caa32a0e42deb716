"""`sparsify`: puts sparsity methods in the places of a model's ReLUs."""

from .assignment import Choice, Methods
from .functional import functional_relus
from .replace import calibrate, sparsify

__all__ = ["Choice", "Methods", "calibrate", "functional_relus", "sparsify"]
