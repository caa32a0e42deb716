"""Quantisation for the array, on torchao's PT2E flow."""

from .flow import quantize
from .layerwise import Agreement, LayerDifference, layerwise, top1_agreement
from .model import QuantizedModel
from .qat import QATModel, finish_qat, prepare_qat
from .quantizer import SordinoQuantizer

__all__ = [
    "Agreement",
    "LayerDifference",
    "QATModel",
    "QuantizedModel",
    "SordinoQuantizer",
    "finish_qat",
    "layerwise",
    "prepare_qat",
    "quantize",
    "top1_agreement",
]
