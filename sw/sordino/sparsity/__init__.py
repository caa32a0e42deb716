"""`sparsify`: puts sparsity methods in the places of a model's activations."""

from .assignment import Choice, Methods
from .blend import Blend
from .functional import functional_relus
from .replace import calibrate, sparsify
from .summary import Left, Replaced, Sparsification

__all__ = ["Blend", "Choice", "Left", "Methods", "Replaced", "Sparsification", "calibrate", "functional_relus", "sparsify"]
