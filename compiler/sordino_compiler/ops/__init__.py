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
    contraction,
    conv,
    conv_transpose,
    extremum,
    maxpool,
    pad,
    prelu,
    product,
    rearrange,
    reduce,
    resample,
    views,
)
from .concat import Concat
from .conv import Conv, Relayout
from .lanewise import Depthwise, Lanewise
from .maxpool import MaxPool
from .move import Move
from .operator import OPERATORS
from .product import Product
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
    "Move",
    "Product",
    "Relayout",
    "Slice",
    "only_moves",
    "remedy",
]

FAMILIES = (
    conv,
    contraction,
    conv_transpose,
    affine,
    product,
    add,
    extremum,
    activation,
    prelu,
    maxpool,
    average,
    reduce,
    resample,
    pad,
    concat,
    rearrange,
    views,
)
"""In the order of `docs/reference/operators.md`."""
