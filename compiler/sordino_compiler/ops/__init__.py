"""What can be compiled: one file an operator family, and this list of them.

A file holds all that the compiler knows of its operators: the rules that a call must keep (a rule's docstring is the user's
message and a row of `docs/reference/operators.md`), the layer that it becomes, what the quantiser asks of that, its meaning on
integers, and the images and registers of its operations. See `docs/how-to/add-an-operator.md`.
"""

from . import (
    activation,
    add,
    affine,
    average,
    concat,
    conv,
    conv_transpose,
    extremum,
    maxpool,
    pad,
    prelu,
    rearrange,
    reduce,
    resize,
)
from .concat import Concat
from .conv import Conv, Relayout
from .lanewise import Depthwise, Lanewise
from .maxpool import MaxPool
from .operator import OPERATORS
from .rearrange import Flatten, Slice
from .remedies import only_moves, remedy

__all__ = [
    "FAMILIES",
    "OPERATORS",
    "Concat",
    "Conv",
    "Depthwise",
    "Flatten",
    "Lanewise",
    "MaxPool",
    "Relayout",
    "Slice",
    "only_moves",
    "remedy",
]

FAMILIES = (
    conv,
    conv_transpose,
    affine,
    add,
    extremum,
    activation,
    prelu,
    maxpool,
    average,
    reduce,
    resize,
    pad,
    concat,
    rearrange,
)
"""In the order of `docs/reference/operators.md`."""
