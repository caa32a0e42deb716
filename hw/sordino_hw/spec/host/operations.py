"""The closed set of operations that the host runs, in NumPy: what each takes, makes and costs.

Arrays have the batch first: [N, *shape]; dimensions are counted without it, from 0. Floats are float32. No operation mixes images.
"""

from .elementwise import Cast, Choose, Combine, Map
from .layout import Concat, Expand, Flip, Pad, Permute, Reshape, Slice, Take
from .operation import OPERATIONS, Operation
from .reduction import Cumulate, Gather, Matmul, Position, Reduce, Softmax, Top

__all__ = [
    "OPERATIONS",
    "Cast",
    "Choose",
    "Combine",
    "Concat",
    "Cumulate",
    "Expand",
    "Flip",
    "Gather",
    "Map",
    "Matmul",
    "Operation",
    "Pad",
    "Permute",
    "Position",
    "Reduce",
    "Reshape",
    "Slice",
    "Softmax",
    "Take",
    "Top",
]
