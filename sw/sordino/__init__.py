"""Sordino: train networks whose activations are mostly zero, compile them for an event-driven array, count the cycles.

import sordino as sd

sparse = sd.sparsify(model, method="star", calibration=x)
sd.train.fit(sparse, train, validation, epochs=20)
quantised = sd.quantize(sparse, calibration=x, arch="ulx3s-85f")
program = sd.compile(quantised)
acc = sd.Accelerator(program, backend="timing")
y = acc(x)
print(acc.stats.total.cycles)
"""

from sordino_hw.arch import PRESETS, ArchConfig
from sordino_hw.errors import ArchError, BinaryError, CompileError, InputError, SordinoError, ToolError, TrapError
from sordino_hw.program import Program

from . import data, nn, train
from .accelerator import Accelerator, load
from .checking import Report, check
from .comparison import Comparison, Difference, compare
from .compilation import compile
from .costs import Cost, CostWeights, cost, weigh
from .pruning import finish_pruning, prune, weight_words
from .quantization import QuantizedModel, finish_qat, layerwise, prepare_qat, quantize, top1_agreement
from .sparsification import calibrate, sparsify
from .statistics import LayerStats, Stats

__all__ = [
    "PRESETS",
    "Accelerator",
    "ArchConfig",
    "ArchError",
    "BinaryError",
    "Comparison",
    "CompileError",
    "Cost",
    "CostWeights",
    "Difference",
    "InputError",
    "LayerStats",
    "Program",
    "QuantizedModel",
    "Report",
    "SordinoError",
    "Stats",
    "ToolError",
    "TrapError",
    "calibrate",
    "check",
    "compare",
    "compile",
    "cost",
    "data",
    "finish_pruning",
    "finish_qat",
    "layerwise",
    "load",
    "nn",
    "prepare_qat",
    "prune",
    "quantize",
    "sparsify",
    "top1_agreement",
    "train",
    "weigh",
    "weight_words",
]
