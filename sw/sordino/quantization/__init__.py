"""Quantisation for the array, on torchao's PT2E flow."""

from .fidelity import Fidelity, LayerFidelity
from .flow import quantize
from .layerwise import Agreement, LayerDifference, layerwise, top1_agreement
from .model import QuantizedModel
from .qat import QATModel, finish_qat, prepare_qat
from .quantizer import SordinoQuantizer
from .remarks import QuantizationWarning

__all__ = [
    "Agreement",
    "Fidelity",
    "LayerDifference",
    "LayerFidelity",
    "QATModel",
    "QuantizationWarning",
    "QuantizedModel",
    "SordinoQuantizer",
    "finish_qat",
    "layerwise",
    "prepare_qat",
    "quantize",
    "top1_agreement",
]
