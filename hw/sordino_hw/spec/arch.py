"""`ArchConfig`: what the hardware is. One frozen, validated, hashable description.

The gateware, the models, the compiler and the `.sdn` container all take their sizes from here. The hash of a
configuration is stored in every `.sdn` and in the HASH register of every build, and a mismatch is refused.

Fields can be added and renamed without a change of the hashes and documents that exist; the metadata of a field says how:

- `{"since": "0.2.0"}`: added in that release of Sordino. A document without the field means its default, and while it has its
  default, neither document nor hash mention it.
- `{"former": ("pipelining", {1: "small", 2: "pipelined"})}`: took the place of a field of another name, whose values it translates.
  Documents with the former name are read, and the hash goes on covering the former name and value.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from .errors import ArchError

__all__ = ["PRESETS", "PROFILES", "ArchConfig", "newer", "preset", "update"]

MOST_IN_FLIGHT = 4
"""Most operations between the sequencer and their last store."""

REQUANT_FRACTION = 9
"""Fraction bits kept after the first shift of requantisation (see `numbers.requantise`)."""

PROFILES: dict[str, dict[str, int]] = {
    "pipelined": {},
    "small": {
        "cores": 1,
        "lanes": 8,
        "wide_cycles": 2,
        "in_flight": 1,
        "word_fifo": 2,
        "segment_fifo": 1,
        "row_fifo": 1,
    },
}
"""Microarchitectures of a core, and the fields that each of them fixes.

`pipelined` has a register wherever a clock of 100 MHz needs one, and drains the sums of an output while those of the next add up.
`small` is one core with few logic cells, at a quarter of that clock: it registers only what waits, and its sums drain out of the accumulators.
Latencies by profile are in `latencies`, the stages that the gateware builds in `gateware.stages`.
"""


@dataclass(frozen=True)
class ArchConfig:
    """One instance of the array.

    Sizes are in the units that the memory is addressed in. A memory never holds more than 2**22 rows, because an
    instruction's immediate has 22 bits.
    """

    name: str = "custom"
    cores: int = 1
    """Cores of the cluster: 1, 2, 4 or 8."""
    ports: int = 1
    """Copies of the activation memory, each with a read port: 1, 2, 4 or 8, at most `cores`."""
    lanes: int = 32
    """Multipliers per core; as many output channels are computed at a time, and as many channels are in an activation word."""
    event_bits: int = 9
    """Bits of one stored activation, signed: 8 or 9."""
    ppu: int = 8
    """Requantisers per core: channels that are drained per cycle. Divides `lanes`."""
    mantissa_bits: int = 4
    """Bits of the requantisation mantissa, its leading one included."""
    wide_cycles: int = 1
    """Cycles of a wide weight that is the same as in the last vector cycle: 1 if the lanes keep both of its rows in registers, else 2."""
    segment: int = 8
    """Channels that the issuer looks at together; a segment without an event takes no cycle."""
    segment_fifo: int = 8
    """Segments buffered in front of the issuer."""
    word_fifo: int = 8
    """Activation words buffered in front of the segmenter."""
    occ_width: int = 32
    """Occupancy bits tested per cycle, one row of the occupancy memory: 8, 16 or 32."""
    row_fifo: int = 8
    """Occupancy rows buffered in front of the scanner."""
    in_flight: int = 4
    """Operations that may be started and not yet completely stored: 1, 2 or 4. With 1 there are no copies of the registers: the next
    instruction waits until the operation is done."""
    profile: str = field(default="pipelined", metadata={"former": ("pipelining", {1: "small", 2: "pipelined"})})
    """Microarchitecture: one of `PROFILES`."""
    act_depth: int = 4096
    """Activation memory: words of `lanes` x `event_bits`."""
    weight_depth: int = 4096
    """Weight memory of each core: rows of `lanes` x 8 bits."""
    mask_depth: int = 512
    """Weight-mask memory of each core: rows of `lanes` bits, one bit for each weight row that an activation word meets."""
    param_depth: int = 512
    """Requantiser parameter memory of each core: rows of `ppu` channels."""
    state_depth: int = 2048
    """Accumulator state memory of each core: rows of `ppu` x 32 bits."""
    tables: int = 4
    """256-entry activation tables."""
    imem_depth: int = 4096
    """Instruction memory: 32-bit words."""
    perf_depth: int = 512
    """Records of each core's performance log: one per operation, and one for the tail of the program."""
    products: bool = field(default=False, metadata={"since": "0.2.0"})
    """Whether the lanes multiply two activations (VEC PRODUCT): squeeze and excitation, gates."""

    def __post_init__(self):
        def rule(ok: bool, text: str, *fields: str):
            if not ok:
                values = ", ".join(f"{f}={getattr(self, f)!r}" for f in fields)
                raise ArchError(f"architecture {self.name!r}: {text}, not {values}")

        rule(isinstance(self.name, str), "name must be text", "name")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type in (int, "int"):
                rule(type(value) is int and value > 0, f"{f.name} must be a positive integer", f.name)
        rule(type(self.products) is bool, "products must be true or false", "products")
        rule(self.cores in (1, 2, 4, 8), "cores must be 1, 2, 4 or 8", "cores")
        rule(
            self.ports in (1, 2, 4, 8) and self.ports <= self.cores,
            "ports must be 1, 2, 4 or 8 and at most cores",
            "ports",
            "cores",
        )
        rule(self.lanes % 8 == 0 and 8 <= self.lanes <= 128, "lanes must be a multiple of 8 from 8 to 128", "lanes")
        rule(self.event_bits in (8, 9), "event_bits must be 8 or 9", "event_bits")
        rule(self.lanes % self.ppu == 0, "ppu must divide lanes", "ppu", "lanes")
        rule(2 <= self.mantissa_bits <= 8, "mantissa_bits must be from 2 to 8", "mantissa_bits")
        rule(self.wide_cycles in (1, 2), "wide_cycles must be 1 or 2", "wide_cycles")
        rule(self.in_flight in (1, 2, MOST_IN_FLIGHT), "in_flight must be 1, 2 or 4", "in_flight")
        rule(
            isinstance(self.profile, str) and self.profile in PROFILES,
            f"profile must be {' or '.join(map(repr, PROFILES))}",
            "profile",
        )
        fixed = PROFILES[self.profile]
        needs = ", ".join(f"{name}={value}" for name, value in fixed.items())
        wrong = [name for name, value in fixed.items() if getattr(self, name) != value]
        rule(not wrong, f"profile={self.profile!r} needs {needs}", *wrong)
        rule(self.segment == 8, "segment must be 8", "segment")
        for name in ("segment_fifo", "word_fifo", "row_fifo"):
            rule(name in fixed or 2 <= getattr(self, name) <= 64, f"{name} must be from 2 to 64", name)
        for name in ("act_depth", "weight_depth", "mask_depth", "param_depth", "state_depth", "imem_depth", "perf_depth"):
            rule(2 <= getattr(self, name) <= 1 << 22, f"{name} must be from 2 to 2**22", name)
        rule(self.occ_width in (8, 16, 32), "occ_width must be 8, 16 or 32", "occ_width")
        rule(self.act_depth % self.occ_width == 0, "act_depth must be a multiple of occ_width", "act_depth", "occ_width")
        rule(self.tables <= 16, "tables must be at most 16", "tables")

    # -- derived sizes ---------------------------------------------------------------------------------------------

    @property
    def chunks(self) -> int:
        """Cycles that the PPU needs to drain all lanes of one output."""
        return self.lanes // self.ppu

    @property
    def occ_bits(self) -> int:
        """Address bits of a word within its row of occupancy."""
        return self.occ_width.bit_length() - 1

    @property
    def act_bits(self) -> int:
        """Bits of an activation value: unsigned 0..2**act_bits-1, or signed in the same number of bits."""
        return self.event_bits - 1

    def act_range(self, signed: bool) -> tuple[int, int]:
        """Smallest and largest activation value (integers, inclusive)."""
        if signed:
            return -(1 << (self.act_bits - 1)), (1 << (self.act_bits - 1)) - 1
        return 0, (1 << self.act_bits) - 1

    @property
    def requant_bits(self) -> int:
        """Width of the multiplier's operand in the requantiser (signed), saturating."""
        return self.event_bits + REQUANT_FRACTION - (self.mantissa_bits - 1) + 1

    def words(self, channels: int) -> int:
        """Activation words that hold `channels` channels of one pixel."""
        return -(-channels // self.lanes)

    # -- identity --------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON values by name of the field, from which `from_dict` makes the configuration again.

        Fields that were added later are left out while they have their default. `needs` is the oldest release of Sordino
        that has all fields that are there; it is left out where that is the first.
        """
        later = {f.name: f.metadata["since"] for f in self._later() if getattr(self, f.name) != f.default}
        absent = {f.name for f in self._later()} - set(later)
        document = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in absent}
        return document | ({"needs": max(later.values(), key=_release)} if later else {})

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> "ArchConfig":
        """Inverse of `to_dict`, for documents of older releases too. Raises `ArchError` for unknown or missing fields."""
        values, known = cls.values_of(document), {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ArchError(f"architecture: unknown field {unknown[0]!r}; known fields are {', '.join(sorted(known))}")
        if missing := sorted(known - set(values) - {f.name for f in cls._later()}):
            raise ArchError(f"architecture: field {missing[0]!r} is missing")
        return cls(**values)

    @classmethod
    def values_of(cls, document: dict[str, Any]) -> dict[str, Any]:
        """The values of a document by the present names of their fields; unknown ones are left as they are.

        Raises `ArchError` for a document that only a newer release can read, and for a value that a renamed field did not have.
        """
        values = {k: v for k, v in document.items() if k != "needs"}
        for f in dataclasses.fields(cls):
            former, translation = f.metadata.get("former", ("", {}))
            if former in values and f.name not in values:
                value = values.pop(former)
                if value not in translation:
                    raise ArchError(f"architecture: {former} is {value!r}; it must be one of {', '.join(map(repr, translation))}")
                values[f.name] = translation[value]
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown and isinstance(document.get("needs"), str) and newer(document["needs"]):
            raise ArchError(f"architecture: unknown field {unknown[0]!r}. {update(document['needs'])}")
        return values

    @property
    def hash(self) -> int:
        """32-bit identity of everything but the name, as stored in the HASH register and in `.sdn` files: the first bytes of the
        SHA-256 of `to_dict` as JSON, without `name` and `needs`, and with the former names and values of renamed fields."""
        values = {k: v for k, v in self.to_dict().items() if k not in ("name", "needs")}
        for f in dataclasses.fields(self):
            if f.name in values and "former" in f.metadata:
                former, translation = f.metadata["former"]
                inverse = {new: old for old, new in translation.items()}
                value = values.pop(f.name)
                values[former] = inverse.get(value, value)
        return int.from_bytes(hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()[:4], "big")

    @classmethod
    def _later(cls) -> list[dataclasses.Field]:
        """The fields that were added after the first release."""
        return [f for f in dataclasses.fields(cls) if "since" in f.metadata]

    def replace(self, **changes) -> "ArchConfig":
        """A copy with some fields changed, named `custom` unless a name is given."""
        return dataclasses.replace(self, **{"name": "custom", **changes})

    def difference(self, other: "ArchConfig") -> str:
        """One line that shows where two configurations differ."""
        a, b = dataclasses.asdict(self), dataclasses.asdict(other)
        parts = [f"{k}: {a[k]} / {b[k]}" for k in a if k != "name" and a[k] != b[k]]
        return f"{self.name} ({self.hash:08x}) / {other.name} ({other.hash:08x}): " + (", ".join(parts) or "no difference")


def _release(version: str) -> tuple[int, ...]:
    """A release such as `0.10.1` as numbers, so that releases can be compared. Parts that are no numbers count as 0."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def newer(version: str) -> bool:
    """Whether that release of Sordino is newer than this one."""
    return _release(version) > _release(_installed())


def _installed() -> str:
    from importlib.metadata import version  # a quarter of what the command line takes to start, and rarely wanted

    return version("sordino")


def update(needed: str) -> str:
    """What to do about a document that a newer Sordino wrote."""
    return f"It needs Sordino {needed} or newer, and this is {_installed()}: update Sordino"


PRESETS: dict[str, ArchConfig] = {
    a.name: a
    for a in (
        ArchConfig(
            name="ulx3s-85f",
            cores=4,
            ports=2,
            act_depth=1536,
            weight_depth=1024,
            mask_depth=512,
            param_depth=16,
            state_depth=512,
            tables=1,
            imem_depth=1024,
            perf_depth=64,
        ),
        ArchConfig(
            name="ecp5-25f",
            lanes=24,
            ppu=4,
            act_depth=1024,
            weight_depth=1024,
            mask_depth=256,
            param_depth=256,
            state_depth=512,
            tables=2,
            imem_depth=2048,
            perf_depth=128,
        ),
        ArchConfig(
            name="icebreaker",
            lanes=8,
            event_bits=8,
            ppu=1,
            wide_cycles=2,
            segment_fifo=1,
            word_fifo=2,
            row_fifo=1,
            in_flight=1,
            profile="small",
            occ_width=8,
            act_depth=512,
            weight_depth=16384,
            mask_depth=1024,
            param_depth=256,
            state_depth=256,
            tables=1,
            imem_depth=256,
            perf_depth=32,
        ),
    )
}


def preset(arch: "str | ArchConfig") -> ArchConfig:
    """The configuration itself, or the one that a text names: a preset, `NAME,field=value,...`, or a `.toml` or `.json` file
    (see `archfile`). Raises `ArchError` for an unknown name."""
    if isinstance(arch, ArchConfig):
        return arch
    if arch in PRESETS:
        return PRESETS[arch]
    from .archfile import arch_of

    return arch_of(arch)
