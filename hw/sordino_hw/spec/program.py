"""`Program`: what the compiler makes and every back end runs; and the `.sdn` container it is kept in.

A `.sdn` file is a safetensors file. Its tensors are the memory images; its metadata holds one JSON document
(`program`) and the SHA-256 of document and images (`sha256`). Nothing in it is executable and nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from . import isa
from .arch import ArchConfig
from .documents import records, typed
from .errors import ArchError, BinaryError
from .files import replacing
from .host import Argument, Group, Host, Kind, Leaf
from .host.kinds import MOST_DIMENSIONS
from .text import printable
from .verify import verify
from .versions import FORMAT_VERSION, NEEDS, current

__all__ = ["FORMAT_VERSION", "Layer", "Op", "Program", "Segment", "Tensor"]

MOST_MACS = 1 << 20
"""Multiply-accumulates that one event can stand for: more than any cluster has multipliers."""
LEAST_SCALE = 2.0**-100
"""Least scale of a tensor; its inverse is the greatest. Real values are then normal numbers of a float32."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in activation memory and how its integers relate to real values.

    Channel c of pixel (y, x) has the channel slot s = `slots[c] + x % fold * channels`: it is lane `s % lanes` of the word at
    `base + y * row_pitch + x // fold * pixel_pitch + s // lanes`. Real value = integer x `scale`.
    """

    name: str
    shape: tuple[int, int, int]
    """(channels, height, width)"""
    scale: float
    signed: bool
    base: int
    row_pitch: int
    pixel_pitch: int
    slots: tuple[int, ...]
    layer: int = -1
    """Index of the layer that writes it; -1 for a network input."""
    kept: bool = True
    """Whether its memory is used for nothing else, so that it can be read after the program has ended."""
    fold: int = 1
    """Neighbouring pixels of a row that share a word; more than one only if all their channels fit into it. Beyond the end of a row
    the last word holds zeros."""

    @property
    def steps(self) -> int:
        """Steps of `pixel_pitch` in a row: one for each pixel, or for each word that several pixels share."""
        return -(-self.shape[2] // self.fold)


@dataclass(frozen=True)
class Layer:
    """One row of the layer table, by which reports and statistics name costs."""

    name: str
    kind: str
    """What it computes, in the compiler's words, such as conv, linear or maxpool."""
    source: str
    """Node of the exported graph and the line of the user's model, as far as known."""
    inputs: tuple[str, ...]
    output: str
    macs: int
    """Multiply-accumulates of the original layer, zeros included; 0 for pooling and adds."""
    mapping: str = ""
    """How its outputs are spread over the cores, such as `2 groups x 1 slice`; empty where that is not known."""


@dataclass(frozen=True)
class Op:
    """One CONV or VEC of a program segment, in program order."""

    layer: int
    macs_per_event: tuple[int, ...]
    """Multiply-accumulates of the original layer that one event of this operation stands for: the real output channels
    of its group (CONV), 1 (VEC: per non-zero lane), cout/groups for an expanded grouped convolution, 0 for pooling. One
    number for every slice, or `cores` numbers by slice, 0 for those that the operation lacks."""


@dataclass
class Segment:
    """A program segment: a stream of instructions that runs without the host, and its memory images, all loaded from row 0.

    Shapes: `imem` uint32 [n]; `weight` int8 [cores, n, lanes]; `mask` bool [cores, n, lanes]; `bias`, `mantissa`, `shift`,
    `threshold` int32 [cores, n, ppu]; `table` int16 [256 * n]. Activation and state memories keep their contents between program
    segments.

    The machine chooses which core group computes an output. So the cores that compute the same slice in different groups must hold the
    same rows wherever an operation uses them.
    """

    imem: np.ndarray
    weight: np.ndarray
    mask: np.ndarray
    bias: np.ndarray
    mantissa: np.ndarray
    shift: np.ndarray
    threshold: np.ndarray
    table: np.ndarray
    ops: list[Op]
    cycle_limit: int

    def param_words(self) -> np.ndarray:
        """The requantiser parameters as the host writes them: uint32 [cores, n, ppu * 2] (see `isa.PARAM_BITS`)."""
        words = np.empty((*self.bias.shape, 2), np.uint32)
        words[..., 0] = self.bias.astype(np.int64) & 0xFFFFFFFF
        words[..., 1] = (self.mantissa | self.shift << 8 | self.threshold << 16).astype(np.uint32)
        return words.reshape(*self.bias.shape[:2], 2 * self.bias.shape[2])


_IMAGES: dict[str, type[np.generic]] = {
    "imem": np.uint32,
    "weight": np.int8,
    "mask": np.bool_,
    "bias": np.int32,
    "mantissa": np.int32,
    "shift": np.int32,
    "threshold": np.int32,
    "table": np.int16,
}


_Rule = Callable[[object, str], None]
"""Called with a condition and the text of the error where it is false."""


@dataclass
class Program:
    """A compiled network. `inputs` and `outputs` name tensors.

    `input_shapes` and `output_shapes` are the shapes, without the batch, in which the model has them: a vector of 10
    is a tensor (10, 1, 1) and may have the shape (10,). By default they are the shapes of the tensors.

    `host` is what the model computes before and after the array, and the structure in which it returns results. None: the inputs are
    passed as they are, and the outputs returned as a tensor, or as a tuple of several.
    """

    arch: ArchConfig
    segments: list[Segment]
    tensors: dict[str, Tensor]
    layers: list[Layer]
    inputs: list[str]
    outputs: list[str]
    meta: dict = field(default_factory=dict)
    """Free JSON for people: name of the model, options of the compiler. No run depends on it."""
    input_shapes: list[tuple[int, ...]] = field(default_factory=list)
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)
    host: Host | None = None

    def __post_init__(self) -> None:
        known = self.tensors
        self.input_shapes = self.input_shapes or [known[name].shape for name in self.inputs if name in known]
        self.output_shapes = self.output_shapes or [known[name].shape for name in self.outputs if name in known]

    def __repr__(self) -> str:
        name = f"{self.meta['name']!r}, " if self.meta.get("name") else ""
        return (
            f"Program({name}{len(self.layers)} layers, {len(self.segments)} segments, inputs {self.input_shapes}, "
            f"outputs {self.output_shapes}, arch={self.arch.name!r})"
        )

    @property
    def ops(self) -> list[Op]:
        """All operations of all segments, in order."""
        return [op for s in self.segments for op in s.ops]

    # -- host steps ------------------------------------------------------------------------------------------------

    @property
    def edges(self) -> Host:
        """`host`, or what None stands for."""
        if self.host is not None:
            return self.host
        arguments = tuple(Argument(name, shape) for name, shape in zip(self.inputs, self.input_shapes, strict=True))
        returned = tuple(Leaf(name) for name in self.outputs)
        returns = returned[0] if len(returned) == 1 else Group("tuple", returned)
        return Host(arguments, (), (), returns)

    def host_kinds(self) -> dict[str, Kind]:
        """Dtype and shape of every value of the host steps. Raises `ValueError` for steps that cannot be."""
        inputs = dict(zip(self.inputs, self.input_shapes, strict=True))
        outputs = dict(zip(self.outputs, self.output_shapes, strict=True))
        if self.host is None:  # an output may be an input
            outputs = {name: shape for name, shape in outputs.items() if name not in inputs}
        return self.edges.kinds(inputs, outputs)

    # -- packing ---------------------------------------------------------------------------------------------------

    def addresses(self, name: str) -> np.ndarray:
        """Word addresses of a tensor: int64 [h, steps, words], `words` the distinct words of a pixel, ascending."""
        t = self.tensors[name]
        words = np.unique(np.asarray(t.slots) // self.arch.lanes)
        y, x = np.arange(t.shape[1])[:, None, None], np.arange(t.steps)[:, None]
        return t.base + y * t.row_pitch + x * t.pixel_pitch + words

    def pack(self, name: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integers [..., c, h, w] as activation words: addresses int64 [n] and words int16 [..., n, lanes]; unused lanes are 0."""
        t, lanes = self.tensors[name], self.arch.lanes
        (c, h, w), addresses = t.shape, self.addresses(name)
        slots = np.asarray(t.slots)
        index = np.searchsorted(np.unique(slots // lanes), slots // lanes) * lanes + slots % lanes
        padded = np.zeros((*values.shape[:-1], t.steps * t.fold), np.int16)
        padded[..., :w] = values
        pixels = np.moveaxis(padded.reshape(*values.shape[:-1], t.steps, t.fold), -4, -1)
        flat = np.zeros((*values.shape[:-3], h, t.steps, addresses.shape[2] * lanes), np.int16)
        flat[..., index + np.arange(t.fold)[:, None] * c] = pixels
        return addresses.reshape(-1), flat.reshape(*values.shape[:-3], -1, lanes)

    def unpack(self, name: str, memory: np.ndarray) -> np.ndarray:
        """The values [..., c, h, w] of a tensor in activation memory [..., act_depth, lanes]."""
        t, lanes = self.tensors[name], self.arch.lanes
        c, h, w = t.shape
        y, x = np.arange(h)[:, None, None], np.arange(w)[:, None]
        slots = np.asarray(t.slots) + x % t.fold * c
        address = t.base + y * t.row_pitch + x // t.fold * t.pixel_pitch + slots // lanes
        return np.moveaxis(memory[..., address, slots % lanes], -1, -3)

    # -- container -------------------------------------------------------------------------------------------------

    def _document(self) -> str:
        return json.dumps(
            {
                "version": FORMAT_VERSION,
                "needs": NEEDS,
                "arch": self.arch.to_dict(),
                "arch_hash": self.arch.hash,
                "segments": [
                    {"cycle_limit": s.cycle_limit, "ops": [[o.layer, o.macs_per_event] for o in s.ops]} for s in self.segments
                ],
                "tensors": [dataclasses.asdict(t) for t in self.tensors.values()],
                "layers": [dataclasses.asdict(layer) for layer in self.layers],
                "inputs": self.inputs,
                "outputs": self.outputs,
                "input_shapes": self.input_shapes,
                "output_shapes": self.output_shapes,
                "host": None if self.host is None else self.host.document(),
                "meta": self.meta,
            },
            sort_keys=True,
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes a `.sdn` file; on failure nothing is left behind and an existing file is kept."""
        images: dict[str, np.ndarray] = {
            f"{i}.{name}": np.ascontiguousarray(getattr(s, name), dtype)
            for i, s in enumerate(self.segments)
            for name, dtype in _IMAGES.items()
        }
        if self.host is not None:
            images |= {f"host.{i}": np.ascontiguousarray(c) for i, c in enumerate(self.host.constants.values())}
        document = self._document()
        with replacing(path, BinaryError) as temporary:
            save_file(images, temporary, {"program": document, "sha256": _digest(document, images)})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Program":
        """Reads and checks a `.sdn` file. Raises `BinaryError` for anything that `save` cannot have written."""
        path = Path(path)
        remedy = "Compile the model again, or copy the file again."
        if not path.is_file():
            raise BinaryError(f"{path}: no such file. `sordino compile` makes one.")
        try:
            with safe_open(path, framework="numpy") as f:
                metadata = f.metadata() or {}
                images = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, AttributeError, OSError, TypeError, ValueError) as error:
            raise BinaryError(f"{path}: not a readable .sdn file, truncated or corrupt ({error}). {remedy}") from None
        if "program" not in metadata or "sha256" not in metadata:
            raise BinaryError(f"{path}: a safetensors file, but not a .sdn: it has no program document. {remedy}")
        document = metadata["program"]
        if _digest(document, images) != metadata["sha256"]:
            raise BinaryError(f"{path}: the checksum does not match: the file was changed or damaged. {remedy}")
        try:
            document.encode()
            d = current(json.loads(document), path)
            _require_text(d)
            program, arch_hash = cls._from_document(d, images), typed(int, d["arch_hash"], "arch_hash")
        except ArchError as error:
            raise BinaryError(f"{path}: {printable(error, 500)}. {remedy}") from None
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            text = printable(error, 500)
            raise BinaryError(f"{path}: the program document is malformed ({type(error).__name__}: {text}). {remedy}") from None
        arch = program.arch
        if arch.hash != arch_hash:
            raise BinaryError(f"{path}: architecture {arch.name!r} hashes to {arch.hash:08x}, not {arch_hash:08x}. {remedy}")
        program.check(str(path))
        return program

    @classmethod
    def _from_document(cls, d: dict, images: dict[str, np.ndarray]) -> "Program":
        """Inverse of `_document`. Raises `KeyError`, `TypeError` or `ValueError` for what it cannot have written."""
        expected = {f"{i}.{name}" for i in range(len(d["segments"])) for name in _IMAGES}
        constants = {f"host.{i}" for i in range(len(d["host"]["constants"]))} if d["host"] is not None else set()
        expected |= constants
        if set(images) != expected:
            raise ValueError(f"the images {sorted(set(images) ^ expected)} are missing or superfluous")
        tensors = records(Tensor, d["tensors"])
        if len({t.name for t in tensors}) != len(tensors):
            raise ValueError("two tensors have one name")
        return cls(
            arch=ArchConfig.from_dict(typed(dict, d["arch"], "arch")),
            segments=[
                Segment(
                    **{name: images[f"{i}.{name}"] for name in _IMAGES},
                    ops=[_op(*typed(list, o, "ops")) for o in typed(list, s["ops"], "ops")],
                    cycle_limit=typed(int, s["cycle_limit"], "cycle_limit"),
                )
                for i, s in enumerate(typed(list, d["segments"], "segments"))
            ],
            tensors={t.name: t for t in tensors},
            layers=records(Layer, d["layers"]),
            inputs=list(typed(tuple[str, ...], d["inputs"], "inputs")),
            outputs=list(typed(tuple[str, ...], d["outputs"], "outputs")),
            meta=typed(dict, d["meta"], "meta"),
            input_shapes=_shapes(d, "input"),
            output_shapes=_shapes(d, "output"),
            host=None if d["host"] is None else Host.of(d["host"], {int(name[5:]): images[name] for name in constants}),
        )

    def check(self, what: str = "program") -> None:
        """Checks every image, tensor and name, then what the operations touch (see `verify`).

        Raises `BinaryError`, naming the field or the instruction.
        """

        def rule(ok: object, text: str) -> None:
            if not ok:
                raise BinaryError(f"{what}: {printable(text, 500)}. Compile the model again.")

        for i, segment in enumerate(self.segments):
            self._check_images(segment, lambda ok, text, i=i: rule(ok, f"segment {i}: {text}"))  # type: ignore[misc]
            self._check_operations(segment, lambda ok, text, i=i: rule(ok, f"segment {i}: {text}"))  # type: ignore[misc]
        for name, tensor in self.tensors.items():
            rule(name == tensor.name, f"tensor {name}: its name is {tensor.name}")
            self._check_tensor(tensor, lambda ok, text, name=name: rule(ok, f"tensor {name}: {text}"))  # type: ignore[misc]
        self._check_links(rule)
        try:
            self.host_kinds()
        except (ValueError, OverflowError) as error:
            rule(False, f"host: {error}")
        verify(self, rule)

    def _check_links(self, rule: _Rule) -> None:
        """Layers, inputs and outputs name tensors that are there, and have their shapes."""
        for i, layer in enumerate(self.layers):
            for name in (*layer.inputs, layer.output):
                rule(name in self.tensors, f"layer {i} ({layer.name!r}): {name!r} is not in the tensor table")
            rule(0 <= layer.macs < 1 << 62, f"layer {i} ({layer.name!r}): {layer.macs} multiply-accumulates")
        rule(self.inputs and len(set(self.inputs)) == len(self.inputs), f"inputs: {self.inputs} are none, or one of them twice")
        rule(self.outputs, "outputs: there are none")
        for side, names, shapes in (("input", self.inputs, self.input_shapes), ("output", self.outputs, self.output_shapes)):
            for name in names:
                rule(name in self.tensors, f"{side} {name!r} is not in the tensor table")
            rule(len(shapes) == len(names), f"{side}_shapes: {len(shapes)} shapes for {len(names)} {side}s")
            for name, shape in zip(names, shapes, strict=True):
                of = self.tensors[name].shape
                fits = len(shape) <= MOST_DIMENSIONS and min(shape, default=1) > 0 and math.prod(shape) == math.prod(of)
                rule(fits, f"{side}_shapes: {shape} does not hold the values of {name!r}, whose shape is {of}")
        for name in self.inputs:
            rule(self.tensors[name].layer == -1, f"input {name!r}: layer {self.tensors[name].layer} writes it")

    def _check_images(self, s: Segment, rule: _Rule) -> None:
        a = self.arch
        for name, (region, width, multiple) in _places(a).items():
            image = getattr(s, name)
            rule(image.dtype == _IMAGES[name], f"{name} has dtype {image.dtype}, not {np.dtype(_IMAGES[name])}")
            fits = image.shape[::2] == (a.cores, width) if region in isa.PER_CORE else True
            rule(image.ndim == (3 if region in isa.PER_CORE else 1) and fits, f"{name} has shape {image.shape}")
            rows, depth = image.shape[1 if region in isa.PER_CORE else 0], isa.region_depth(a, region)
            rule(rows <= depth, f"{name} has {rows} rows, the memory {depth}")
            rule(rows % multiple == 0, f"{name} has {rows} rows, not a multiple of {multiple}")
        rule(s.bias.shape == s.mantissa.shape == s.shift.shape == s.threshold.shape, "the parameter images differ in length")
        event = 1 << (a.event_bits - 1)
        ranges = {
            "mantissa": (0, (1 << a.mantissa_bits) - 1),
            "shift": (0, 31),
            "threshold": (0, 255),
            "table": (-event, event - 1),
        }
        for name, (low, high) in ranges.items():
            image = getattr(s, name)
            least, greatest = (image.min(), image.max()) if image.size else (low, high)
            rule(low <= least <= greatest <= high, f"{name} holds {least}..{greatest}, beyond {low}..{high}")

    def _check_operations(self, s: Segment, rule: _Rule) -> None:
        cores = self.arch.cores
        rule(type(s.cycle_limit) is int and 0 < s.cycle_limit < 1 << 32, f"cycle_limit {s.cycle_limit!r}")
        rule(all(0 <= o.layer < len(self.layers) for o in s.ops), "an operation names a layer that is not there")
        counts = all(len(o.macs_per_event) in (1, cores) for o in s.ops)
        rule(counts, f"an operation does not have 1 or {cores} numbers of MACs per event")
        sizes = all(0 <= n <= MOST_MACS for o in s.ops for n in o.macs_per_event)
        rule(sizes, f"an operation has MACs per event beyond 0..{MOST_MACS}")

    def _check_tensor(self, t: Tensor, rule: _Rule) -> None:
        a = self.arch
        rule(len(t.shape) == 3 and min(t.shape) > 0 and len(t.slots) == t.shape[0], f"shape {t.shape}")
        rule(t.base >= 0 and t.row_pitch >= 0 and t.pixel_pitch >= 0 and min(t.slots) >= 0, "negative address")
        shared = t.fold == 1 or (t.fold * t.shape[0] <= a.lanes and sorted(t.slots) == list(range(t.shape[0])))
        rule(t.fold > 0 and shared, f"fold {t.fold} of {t.shape[0]} channels")
        last = t.base + (t.shape[1] - 1) * t.row_pitch + (t.steps - 1) * t.pixel_pitch + max(t.slots) // a.lanes
        rule(last < a.act_depth, f"ends at word {last}, the memory has {a.act_depth}")
        words = t.shape[1] * t.steps * len({s // a.lanes for s in t.slots})
        rule(
            words <= a.act_depth and len(set(t.slots)) == len(t.slots),
            f"two of its values would share a place; its shape is {t.shape}",
        )
        rule(LEAST_SCALE <= t.scale <= 1 / LEAST_SCALE, f"scale {t.scale}")
        rule(-1 <= t.layer < len(self.layers), f"layer {t.layer} is not there")


def _places(a: ArchConfig) -> dict[str, tuple[isa.Region, int, int]]:
    """Of each image of a segment: the memory, the width of its rows (0: one number), and of what its rows are a multiple."""
    return {
        "imem": (isa.Region.IMEM, 0, 1),
        "weight": (isa.Region.WEIGHT, a.lanes, 1),
        "mask": (isa.Region.MASK, a.lanes, 1),
        "bias": (isa.Region.PARAM, a.ppu, 1),
        "mantissa": (isa.Region.PARAM, a.ppu, 1),
        "shift": (isa.Region.PARAM, a.ppu, 1),
        "threshold": (isa.Region.PARAM, a.ppu, 1),
        "table": (isa.Region.TABLE, 0, 256),
    }


META = {"name": str, "dense": bool, "reuse": bool, "fold": bool, "random_weights": bool}
"""Fields of `Program.meta` that the compiler writes. Others are free."""


def _require_text(d: dict) -> None:
    """Raises `ValueError` for a lone surrogate anywhere (no output takes one), `TypeError` for a field of `META` of another type."""
    json.dumps(d, ensure_ascii=False).encode()
    for name, kind in META.items():
        if name in d["meta"]:
            typed(kind, d["meta"][name], f"meta.{name}")


def _shapes(d: dict, side: str) -> list[tuple[int, ...]]:
    """`input_shapes` or `output_shapes` of a program document. Raises `TypeError`, or `ValueError` for a wrong number of them."""
    found = typed(list, d[f"{side}_shapes"], f"{side}_shapes")
    if len(found) != len(d[f"{side}s"]):
        raise ValueError(f"{side}_shapes has {len(found)} shapes for {len(d[f'{side}s'])} {side}s")
    return [typed(tuple[int, ...], shape, f"{side}_shapes") for shape in found]


def _op(layer: Any, macs: Any) -> Op:
    """An operation from its two fields in a JSON document. Raises `TypeError`."""
    return Op(typed(int, layer, "ops.layer"), typed(tuple[int, ...], macs, "ops.macs_per_event"))


def _digest(document: str, images: dict[str, np.ndarray]) -> str:
    h = hashlib.sha256(document.encode())
    for name in sorted(images):
        image = np.ascontiguousarray(images[name])
        h.update(f"\n{name} {image.dtype} {image.shape}\n".encode())
        h.update(image.tobytes())
    return h.hexdigest()
