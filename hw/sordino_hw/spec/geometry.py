"""Which words an operation touches: the address arithmetic of `isa.REGISTERS`, for all outputs at once.

Golden model, timing model, RTL back end and verifier take addresses from here. An address is modulo the address space of its
memory (`isa.address_bits`); steps and bases of half the space and more are taken as negative, so that the words of one
operation are neighbours as integers too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from .arch import ArchConfig
from .isa import Region, address_bits

__all__ = ["Geometry", "centred", "coverage", "geometry", "modular", "output_addresses", "residual_addresses"]

_TAPS = (
    *("OH", "OW", "KH", "KX", "SPAN", "WORDS", "H", "W", "IY0", "IX0", "SY", "SX", "DY", "DX", "REPY", "REPX"),
    *("A_BASE", "A_OY", "A_OX", "A_KY", "A_KX"),
)
CHUNK = 1 << 20
"""Addresses that are expanded at a time."""


def modular(addresses, arch: ArchConfig, region: Region):
    """Addresses modulo the address space of a memory."""
    return addresses & (1 << address_bits(arch, region)) - 1


def centred(value: int, bits: int) -> int:
    """An address or a step modulo 2**bits, from -2**(bits - 1) to 2**(bits - 1) - 1."""
    half = 1 << (bits - 1)
    return (value + half & (1 << bits) - 1) - half


@dataclass(frozen=True)
class Geometry:
    """The input words of an operation. Outputs are numbered n = oy * OW + ox.

    A *tap* here is one word under the kernel that is in bounds for at least one output. Rows and columns are
    independent: tap (y, x) of output (oy, ox) reads the word at `row_address[oy, y] + col_address[ox, x]`, modulo the
    address space, if both are in bounds.
    """

    row_address: np.ndarray
    """int64 [OH, ky]"""
    row_valid: np.ndarray
    """bool [OH, ky]"""
    col_address: np.ndarray
    """int64 [OW, kx]"""
    col_valid: np.ndarray
    """bool [OW, kx]"""
    span: np.ndarray
    """int64 [taps]: number s of the span that a tap is in (ky * KX + kx)."""
    offset: np.ndarray
    """int64 [taps]: number q of the word in its span (pixel * WORDS + word)."""
    address_bits: int
    """Addresses are modulo 2**address_bits."""

    @property
    def outputs(self) -> int:
        return len(self.row_address) * len(self.col_address)

    @property
    def taps(self) -> int:
        return len(self.span)

    @property
    def in_bounds(self) -> int:
        """Words read over all outputs, empty ones included."""
        return int(self.row_valid.sum()) * int(self.col_valid.sum())

    @property
    def first_address(self) -> int:
        """Least address of a word in bounds, 0 if there is none."""
        return self._extent[0]

    @property
    def last_address(self) -> int:
        """Greatest address of a word in bounds, -1 if there is none."""
        return self._extent[1]

    @cached_property
    def _extent(self) -> tuple[int, int]:
        if not self.in_bounds:
            return 0, -1
        low, high = self._unwrapped
        if low >> self.address_bits == high >> self.address_bits:
            mask = (1 << self.address_bits) - 1
            return low & mask, high & mask
        least, last = 1 << self.address_bits, -1
        for part in self.parts():
            a = self.addresses(part)
            least, last = min(least, int(a.min(initial=least, where=a >= 0))), max(last, int(a.max(initial=-1)))
        return least, last

    @cached_property
    def wraps(self) -> bool:
        """Whether words lie on both sides of the end of the address space. Of a memory that has fewer rows than there are addresses
        one of them is beyond the memory then; of another one the rows of a span may not be neighbours."""
        if not self.in_bounds:
            return False
        low, high = self._unwrapped
        return low >> self.address_bits != high >> self.address_bits

    @property
    def _unwrapped(self) -> tuple[int, int]:
        """The least and the greatest address in bounds, not modulo the address space."""
        rows, cols = self.row_address[self.row_valid], self.col_address[self.col_valid]
        return int(rows.min() + cols.min()), int(rows.max() + cols.max())

    def parts(self, taps: int | None = None) -> list[slice]:
        """The outputs in runs, each with at most `CHUNK` addresses of `taps` taps (default: all), but one output at least."""
        step = max(1, CHUNK // max(1, self.taps if taps is None else taps))
        return [slice(n, min(n + step, self.outputs)) for n in range(0, self.outputs, step)]

    def addresses(self, part: slice = slice(None)) -> np.ndarray:
        """Word addresses for a run of outputs: int64 [outputs, taps], -1 where out of bounds."""
        oy, ox = np.divmod(np.arange(self.outputs)[part], len(self.col_address))
        a = self.row_address[oy, :, None] + self.col_address[ox, None] & (1 << self.address_bits) - 1
        valid = self.row_valid[oy, :, None] & self.col_valid[ox, None]
        return np.where(valid, a, -1).reshape(len(oy), self.taps)

    def counts(self, taps: np.ndarray) -> np.ndarray:
        """How often the taps with these indices read each word from `first_address` to `last_address`: int64 [words]."""
        counts = np.zeros(max(0, self.last_address + 1 - self.first_address), np.int64)
        ky, kx = np.divmod(taps, self.col_address.shape[1])
        for part in self.parts(len(taps)):
            oy, ox = (index[:, None] for index in np.divmod(np.arange(part.start, part.stop), len(self.col_address)))
            a = self.row_address[oy, ky] + self.col_address[ox, kx] & (1 << self.address_bits) - 1
            met = a[self.row_valid[oy, ky] & self.col_valid[ox, kx]]
            counts += np.bincount(met - self.first_address, minlength=len(counts))
        return counts


@lru_cache(maxsize=64)
def _geometry(values: tuple[int, ...], bits: int) -> Geometry:
    r = dict(zip(_TAPS, values, strict=True))
    r |= {name: centred(r[name], bits) for name in ("A_BASE", "A_OY", "A_OX", "A_KY", "A_KX")}
    qy, qx = np.arange(r["OH"]) // r["REPY"], np.arange(r["OW"]) // r["REPX"]
    ky = np.arange(r["KH"])
    iy = r["IY0"] + qy[:, None] * r["SY"] + ky * r["DY"]
    row_valid = (iy >= 0) & (iy < r["H"])
    row_address = r["A_BASE"] + qy[:, None] * r["A_OY"] + ky * r["A_KY"]

    # Pixels that are out of bounds for every output are dropped first, so that the arrays of all outputs stay small.
    kx, p = (grid.ravel() for grid in np.meshgrid(np.arange(r["KX"]), np.arange(r["SPAN"]), indexing="ij"))
    ix0, near = r["IX0"] + qx * r["SX"], kx * r["DX"] + p
    seen = (near + ix0.max() >= 0) & (near + ix0.min() < r["W"])
    kx, p, ix = kx[seen], p[seen], ix0[:, None] + near[seen]
    col_valid = (ix >= 0) & (ix < r["W"])
    rows, cols = row_valid.any(0), col_valid.any(0)
    kx, p, col_valid = kx[cols], p[cols], col_valid[:, cols]
    ky, row_valid, row_address = ky[rows], row_valid[:, rows], row_address[:, rows]

    words = np.arange(r["WORDS"])
    offset = (p[:, None] * r["WORDS"] + words).ravel()
    kx = kx.repeat(r["WORDS"])
    col_valid = col_valid.repeat(r["WORDS"], 1)
    col_address = qx[:, None] * r["A_OX"] + kx * r["A_KX"] + offset
    span = (ky[:, None] * r["KX"] + kx).ravel()
    return Geometry(row_address, row_valid, col_address, col_valid, span, np.tile(offset, len(ky)), bits)


def geometry(regs: Mapping[str, int], arch: ArchConfig) -> Geometry:
    """The input words of the operation with these registers (cached)."""
    return _geometry(tuple(regs[name] for name in _TAPS), address_bits(arch, Region.ACT))


def _sliced(regs: Mapping[str, int], arch: ArchConfig, base: str, row: str, column: str) -> np.ndarray:
    oy, ox = np.divmod(np.arange(regs["OH"] * regs["OW"]), regs["OW"])
    first = regs[base] + oy * regs[row] + ox * regs[column]
    return modular(first[:, None] + np.arange(regs["SLICES"]), arch, Region.ACT)


def output_addresses(regs: Mapping[str, int], arch: ArchConfig) -> np.ndarray:
    """Word addresses of the outputs: int64 [outputs, SLICES]."""
    return _sliced(regs, arch, "O_BASE", "O_OY", "O_OX")


def residual_addresses(regs: Mapping[str, int], arch: ArchConfig) -> np.ndarray:
    """Addresses of the residual words: int64 [outputs, SLICES]."""
    return _sliced(regs, arch, "R_BASE", "R_OY", "R_OX")


@lru_cache(maxsize=256)
def _coverage(values: tuple[int, ...], bits: int, masks: bytes, lanes: int) -> np.ndarray:
    g = _geometry(values, bits)
    counts = np.zeros((max(0, g.last_address + 1 - g.first_address), lanes))
    distinct, kind = np.unique(np.frombuffer(masks, bool).reshape(g.taps, lanes), axis=0, return_inverse=True)
    for i, row in enumerate(distinct):
        if row.any():
            counts += g.counts(np.flatnonzero(kind.reshape(-1) == i))[:, None] * row
    return counts


def coverage(regs: Mapping[str, int], arch: ArchConfig, mask: np.ndarray) -> np.ndarray:
    """How often an operation uses each activation: float64 [words, lanes] of whole numbers (cached).

    `mask`: bool [taps, lanes]. Row w, lane l is the number of outputs and taps that read lane l of the word at
    `first_address + w` with their mask bit set.
    """
    return _coverage(tuple(regs[name] for name in _TAPS), address_bits(arch, Region.ACT), mask.tobytes(), mask.shape[1])
