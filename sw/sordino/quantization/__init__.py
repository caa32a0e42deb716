"""Quantisation for the array, on torchao's PT2E flow."""

from .flow import quantize
from .model import QuantizedModel
from .quantizer import SordinoQuantizer

__all__ = ["QuantizedModel", "SordinoQuantizer", "quantize"]
