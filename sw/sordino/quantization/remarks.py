"""What `quantize` warns of: calibration data that says little, and a result that falls away from the float module."""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from .fidelity import EXPORTED, Fidelity, FloatReference
from .model import QuantizedModel

__all__ = ["QuantizationWarning", "warn_of_calibration", "warn_of_result"]

IMAGES, VALUES = 16, 1 << 25
"""At most so many images of the calibration data are compared, and no more (but two) than have so many activations."""

TYPICAL = "Calibrate with some hundred typical inputs, preprocessed as they will be in use."


class QuantizationWarning(UserWarning):
    """The quantised model is probably not what its user wants; the message says why and what to do."""


def warn_of_calibration(batches: list[tuple[Tensor, ...]]) -> None:
    """Warns of a single image, and of inputs that are the same in all images."""
    if sum(len(b[0]) for b in batches) == 1:
        _warn(f"the calibration data is one image, so the range of activations is that of this image. {TYPICAL}")
        return
    for i, first in enumerate(batches[0]):
        name = "the calibration data" if len(batches[0]) == 1 else f"input {i} of the calibration data"
        if all(bool((b[i] == first[:1]).all()) for b in batches):
            value = first.flatten()[0]
            same = f"{float(value):g} everywhere" if bool((first[0] == value).all()) else "the same image again and again"
            _warn(f"{name} is {same}, so the range of activations is not known. {TYPICAL}")


def warn_of_result(reference: FloatReference, quantised: QuantizedModel, batches: list[tuple[Tensor, ...]]) -> None:
    """Runs some of the calibration data, and warns of outputs that it does not move and of the first layer that falls away."""
    inputs = _some(batches, sum(int(np.prod(v.shape)) for v in quantised.graph.values.values()))
    values = quantised.torch_values(*inputs)
    outputs = [values[name] for name in quantised.graph.outputs]
    different = any(bool((x != x[:1]).any()) for x in inputs)
    if different and all((y == y[:1]).all() for y in outputs):
        largest = ", ".join(f"{max(float(b[i].abs().max()) for b in batches):g}" for i in range(len(inputs)))
        _warn(
            f"all images of the calibration data give the same output (the largest magnitude of an input is {largest}): "
            f"the inputs are too small to matter beside the model's biases, or a layer is dead. {TYPICAL}"
        )
    scales = {name: v.scale for name, v in quantised.graph.values.items()}
    found = Fidelity((reference.exported(inputs), *reference.against("quantised", inputs, values, scales)), len(inputs[0]))
    fault = found.fault
    if fault is None:
        return
    if fault.stage == EXPORTED:
        _warn(
            f"the exported graph's outputs differ from the model's own ({fault.own:.1f} dB signal to noise). The model's forward gives "
            "other values from call to call, or depends on the batch: make it deterministic in evaluation mode."
        )
    else:
        _warn(
            f"the quantised model falls away from the float module at layer {fault} (signal to noise on {found.images} calibration "
            "images). Print sordino.compare(model, quantised, x) for all layers; a tensor with few very large values is often the "
            "cause: clip them in the model (nn.ReLU6), try method='minmax', or train with sordino.prepare_qat."
        )


def _some(batches: list[tuple[Tensor, ...]], activations: int) -> tuple[Tensor, ...]:
    count = max(2, min(IMAGES, VALUES // max(activations, 1)))
    return tuple(torch.cat(list(_first((b[i] for b in batches), count))) for i in range(len(batches[0])))


def _first(parts: Iterable[Tensor], count: int) -> Iterable[Tensor]:
    for part in parts:
        if count <= 0:
            return
        yield part[:count]
        count -= len(part)


def _warn(text: str) -> None:
    warnings.warn(text[0].upper() + text[1:], QuantizationWarning, stacklevel=4)
