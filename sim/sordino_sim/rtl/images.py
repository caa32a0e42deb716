"""Rows of the memories as the 32-bit pieces in which the host port takes them (`isa.Region`), and back."""

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.isa import PER_CORE, REGION_SHIFT, Region, region_bits, region_stride, row_bytes, row_pieces
from sordino_hw.spec.program import Segment

__all__ = ["addresses", "decode", "encode", "segment_images"]


def addresses(arch: ArchConfig, region: Region, rows: np.ndarray, core: int = 0) -> np.ndarray:
    """Byte addresses of rows, where every core has rows of its own those of `core`: uint32, of the shape of `rows`."""
    if region in PER_CORE:
        rows = np.asarray(rows, np.int64) + core * region_stride(arch, region)
    return (region.value << REGION_SHIFT) + (np.asarray(rows, np.int64) * row_bytes(region_bits(arch, region))).astype(np.uint32)


def encode(arch: ArchConfig, region: Region, rows: np.ndarray) -> np.ndarray:
    """Rows in their natural form as uint32 [n, pieces].

    Natural forms: IMEM uint32 [n]; WEIGHT int8 [n, lanes]; MASK bool [n, lanes]; PARAM uint32 [n, ppu * 2]
    (`Segment.param_words`); ACT int16 [n, lanes]; STATE int32 [n, ppu]; TABLE int16 [n]. Values beyond a field's
    width wrap.
    """
    rows = np.asarray(rows)
    n, pieces = len(rows), row_pieces(region_bits(arch, region))
    if region in (Region.IMEM, Region.PARAM):
        return np.ascontiguousarray(rows, np.uint32).reshape(n, pieces)
    if region is Region.STATE:
        return np.ascontiguousarray(rows, np.int32).view(np.uint32).reshape(n, pieces)
    if region is Region.TABLE:
        return (rows.astype(np.int64) & (1 << arch.event_bits) - 1).astype(np.uint32).reshape(n, 1)
    if region is Region.WEIGHT:
        packed = np.ascontiguousarray(rows, np.int8).view(np.uint8)
    elif region is Region.MASK:
        packed = np.packbits(rows.astype(bool), axis=1, bitorder="little")
    elif region is Region.ACT:
        bits = rows.astype(np.int16)[:, :, None] >> np.arange(arch.event_bits, dtype=np.int16) & 1
        packed = np.packbits(bits.reshape(n, -1).astype(bool), axis=1, bitorder="little")
    else:
        raise ValueError(f"region {region.name} cannot be written")
    padded = np.zeros((n, pieces * 4), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view("<u4").astype(np.uint32, copy=False)


def decode(arch: ArchConfig, region: Region, pieces: np.ndarray) -> np.ndarray:
    """Inverse of `encode` for the readable regions, and PERF int64 [n]."""
    if region is Region.PERF:
        return pieces.astype(np.int64).reshape(len(pieces))
    if region is Region.IMEM:
        return pieces.reshape(len(pieces)).copy()
    if region is Region.TABLE:
        return _signed(pieces.reshape(len(pieces)).astype(np.int32), arch.event_bits)
    if region is Region.STATE:
        return pieces.view(np.int32).copy()
    if region is not Region.ACT:
        raise ValueError(f"region {region.name} cannot be read")
    octets = np.ascontiguousarray(pieces, "<u4").view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=arch.lanes * arch.event_bits, bitorder="little")
    value = bits.reshape(len(pieces), arch.lanes, arch.event_bits) @ (1 << np.arange(arch.event_bits, dtype=np.int32))
    return _signed(value, arch.event_bits)


def _signed(value: np.ndarray, bits: int) -> np.ndarray:
    """int16 of what `bits` bits in two's complement mean."""
    return (value - (value >> (bits - 1) << bits)).astype(np.int16)


def segment_images(segment: Segment) -> dict[tuple[Region, int], np.ndarray]:
    """The images of a segment by region and core (0 where the cores share a region), in their natural forms."""
    images = {(Region.IMEM, 0): segment.imem, (Region.TABLE, 0): segment.table}
    for region, cores in ((Region.WEIGHT, segment.weight), (Region.MASK, segment.mask), (Region.PARAM, segment.param_words())):
        images.update({(region, c): image for c, image in enumerate(cores)})
    return images
