"""Host steps: what a program computes before and after the array, in NumPy, from a small closed set of operations.

A `.sdn` file may come from anybody, so a step is data, never an expression: an operation of `operations.OPERATIONS` with typed
attributes. Kinds (dtype and shape) of all values are inferred when a file is loaded; whatever does not fit is refused, and the work and
memory of the steps count in the budget (`sordino_hw.spec.budget`).
"""

from .kinds import DTYPES, Kind
from .operations import OPERATIONS, Operation
from .returned import Group, Leaf, Literal, Tree, flat, leaves, paths, restore
from .steps import Argument, Host, Step, infer, step_work

__all__ = [
    "DTYPES",
    "OPERATIONS",
    "Argument",
    "Group",
    "Host",
    "Kind",
    "Leaf",
    "Literal",
    "Operation",
    "Step",
    "Tree",
    "flat",
    "infer",
    "leaves",
    "paths",
    "restore",
    "step_work",
]
