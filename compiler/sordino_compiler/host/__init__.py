"""Operators of an exported graph as host steps (`sordino_hw.spec.host`): one file a family of operators."""

from . import arithmetic, moving, products, reductions
from .lowering import FORMS, Lowering, NotOnHost, Ref, batches, kind_of, trial

__all__ = [
    "FORMS",
    "Lowering",
    "NotOnHost",
    "Ref",
    "arithmetic",
    "batches",
    "kind_of",
    "moving",
    "products",
    "reductions",
    "trial",
]
