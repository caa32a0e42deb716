"""Cycles from the patterns of zeros alone: what a program costs depends on which activations are zero, not on values."""

from collections.abc import Mapping

import numpy as np

from sordino_hw.spec.asm import decode_segment
from sordino_hw.spec.errors import InputError
from sordino_hw.spec.isa import Opcode
from sordino_hw.spec.program import Program

from .model import SegmentTiming

__all__ = ["time_patterns"]


def time_patterns(program: Program, nonzero: Mapping[str, np.ndarray]) -> np.ndarray:
    """Performance records of one run, as `Timing.run` gives them, without computing a value.

    Parameters
    ----------
    program : Program
        Compiled with `reuse=False` if a layer reads another's output.
    nonzero : by tensor, bool [c, h, w]
        Of every tensor that a layer reads; and of those that it is a slice of, whose other channels lie in the same words.

    Returns int64 [records, cores, len(isa.PERF_FIELDS)]. Raises `InputError` for a pattern that is missing or has another shape, and
    `TrapError` at the cycle limit. Memory ports are not checked.
    """
    for name in sorted({name for layer in program.layers for name in layer.inputs}):
        shape = program.tensors[name].shape
        if name not in nonzero or nonzero[name].shape != shape:
            raise InputError(
                f"tensor {name!r}: a pattern of shape {shape} is needed, and is {'wrong' if name in nonzero else 'missing'}."
            )
    packed = [program.pack(name, pattern.astype(np.int16)) for name, pattern in nonzero.items()]
    words = np.zeros((1 + max(int(addresses.max()) for addresses, _ in packed), program.arch.lanes), bool)
    for addresses, values in packed:
        words[addresses] |= values != 0
    bits = np.packbits(words, axis=1, bitorder="little")
    occupied = np.logical_or.reduce(words, axis=1)[None]
    records = []
    for segment in program.segments:
        timing = SegmentTiming(program.arch, segment, 1)
        masks = np.packbits(segment.mask, axis=2, bitorder="little")
        for step in decode_segment(segment.imem, program.arch):
            if step.opcode in (Opcode.CONV, Opcode.VEC):
                timing.advance(step, [bits], occupied, masks)
        records.append(timing.records()[0])
    return np.concatenate(records)
