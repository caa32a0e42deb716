"""Sordino: train networks whose activations are mostly zero, compile them for an event-driven array, count the cycles.

    import sordino as sd

    sparse = sd.sparsify(model, method="star", calibration=x)
    sd.train.fit(sparse, train, validation, epochs=20)
    quantised = sd.quantize(sparse, calibration=x, arch="ulx3s-85f")
    program = sd.compile(quantised)
    acc = sd.Accelerator(program, backend="timing")
    y = acc(x)
    print(acc.stats.total.cycles)

Names are imported when they are first used (PEP 562), so that a program pays only for what it uses.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sordino_hw.spec.arch import PRESETS, ArchConfig
from sordino_hw.spec.errors import ArchError, BinaryError, CompileError, InputError, SordinoError, ToolError, TrapError

if TYPE_CHECKING:
    from sordino_hw.spec.program import Program

    from . import data, nn, train
    from .onnx import load_onnx
    from .quantization import (
        Fidelity,
        QuantizationWarning,
        QuantizedModel,
        finish_qat,
        layerwise,
        prepare_qat,
        quantize,
        top1_agreement,
    )
    from .runtime.accelerator import Accelerator, load
    from .runtime.check import Report, check
    from .runtime.compare import Comparison, Difference, compare
    from .runtime.compile import compile
    from .runtime.stats import LayerStats, Stats
    from .sparsity import Blend, calibrate, sparsify
    from .sparsity.cost import Cost, CostWeights, cost, weigh
    from .sparsity.prune import finish_pruning, prune, weight_words

__all__ = [
    "PRESETS",
    "Accelerator",
    "ArchConfig",
    "ArchError",
    "BinaryError",
    "Blend",
    "Comparison",
    "CompileError",
    "Cost",
    "CostWeights",
    "Difference",
    "Fidelity",
    "InputError",
    "LayerStats",
    "Program",
    "QuantizationWarning",
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
    "load_onnx",
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

_NAMES_BY_MODULE = {
    "sordino_hw.spec.program": ("Program",),
    ".onnx": ("load_onnx",),
    ".quantization": (
        "Fidelity",
        "QuantizationWarning",
        "QuantizedModel",
        "finish_qat",
        "layerwise",
        "prepare_qat",
        "quantize",
        "top1_agreement",
    ),
    ".runtime.accelerator": ("Accelerator", "load"),
    ".runtime.check": ("Report", "check"),
    ".runtime.compare": ("Comparison", "Difference", "compare"),
    ".runtime.compile": ("compile",),
    ".runtime.stats": ("LayerStats", "Stats"),
    ".sparsity": ("Blend", "calibrate", "sparsify"),
    ".sparsity.cost": ("Cost", "CostWeights", "cost", "weigh"),
    ".sparsity.prune": ("finish_pruning", "prune", "weight_words"),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}
_PACKAGES = ("data", "experiments", "nn", "quantization", "report", "runtime", "sparsity", "train", "zoo")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
