"""Structure-aware mutations of `.sdn` files, and what a mutated file does on its way through load, models and report.

A mutation changes a field of the document, the architecture, an instruction, a register's value or an image. Checksum and hash of
the architecture are computed anew, so that nothing but the checks of the contents stands between the file and the models.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import save_file

from hosted import hosted
from random_layers import ARCHS, random_case
from sordino.cli.disasm import disasm
from sordino.report import render
from sordino.report.jsonfile import document
from sordino.runtime.edges import Edges, restored
from sordino.runtime.stats import Stats
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ArchError, SordinoError, TrapError
from sordino_hw.spec.host import OPERATIONS
from sordino_hw.spec.isa import IMM_BITS, REG_BITS, REGISTERS, Opcode
from sordino_hw.spec.program import Program
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

__all__ = ["SECONDS", "Corpus", "Outcome", "against_rtl", "journey", "write"]

LIMIT = 0.01
"""Budget of the models (see `sordino_hw.spec.budget`): 10**7 steps, 80 MiB."""
SECONDS = 5
"""Processor time that one file may take on its whole way: the corpus takes some 0.1 s."""

Document = dict[str, Any]
Images = dict[str, np.ndarray]


def write(path: Path, d: Document, images: Images) -> None:
    """A `.sdn` file of any document and images, its checksum and the hash of its architecture right."""
    with contextlib.suppress(ArchError, AttributeError, KeyError, TypeError, ValueError):  # where there is an architecture at all
        d["arch_hash"] = ArchConfig.from_dict(d["arch"]).hash
    text = json.dumps(d)
    digest = hashlib.sha256(text.encode())
    for name in sorted(images):
        image = images[name] = np.ascontiguousarray(images[name])
        digest.update(f"\n{name} {image.dtype} {image.shape}\n".encode() + image.tobytes())
    save_file(images, path, {"program": text, "sha256": digest.hexdigest()})


# -- mutations -----------------------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 7, 255, 4095, 1 << 22, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 70, 10**400),
    *(0.5, 1e-320, 1e300, float("inf"), float("-inf"), float("nan")),
    *("", "x", "\ud800", "\x1b[2J", "[/x]", "[red]", "$\\frac$", "<script>", "a\nb", "\u202e", "n" * 5000, "../../x", "\0"),
    *([], [[]], {}, {"x": 1}, [0], [1, 1, 1], [-1], [1 << 40, 1 << 40, 1]),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def pick(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def change_field(rng: np.random.Generator, d: Document, images: Images) -> None:
    """One place gets a value of any kind, or a number near its own; or it is removed, repeated, or takes another's value."""
    section = pick(rng, [k for k in d if isinstance(d[k], dict | list)] or list(d))
    path = pick(rng, [(section, *p) for p in places(d[section])])
    parent, key = at(d, path[:-1]), path[-1]
    kind = rng.random()
    old = parent[key]
    if kind < 0.4 and type(old) is int:
        parent[key] = pick(
            rng, [old + 1, old - 1, old * 2, old // 2, -old, old + int(rng.integers(-100, 100)), old ^ 1 << int(rng.integers(40))]
        )
    elif kind < 0.75:
        parent[key] = copy.deepcopy(pick(rng, WRONG))
    elif kind < 0.85:
        del parent[key]
    elif isinstance(parent, list):
        parent.insert(key, copy.deepcopy(pick(rng, parent)))
    else:
        parent[key] = copy.deepcopy(parent[pick(rng, list(parent))])


def change_arch(rng: np.random.Generator, d: Document, images: Images) -> None:
    """A size of the architecture: doubled, halved, extreme."""
    name = pick(rng, [k for k, v in d["arch"].items() if type(v) is int])
    old = d["arch"][name]
    d["arch"][name] = pick(rng, [old * 2, max(1, old // 2), old + 8, 1, 2, 8, 4096, 1 << 20, 1 << 22, 1 << 23])


def _stream(rng: np.random.Generator, images: Images) -> str:
    return pick(rng, [name for name in images if name.endswith(".imem") and images[name].ndim == 1 and len(images[name])])


def change_register(rng: np.random.Generator, d: Document, images: Images) -> None:
    """The value of a SET: near its own, extreme, or any."""
    name = _stream(rng, images)
    words = images[name] = images[name].copy()
    sets = np.flatnonzero(words >> np.uint32(REG_BITS + IMM_BITS) == Opcode.SET)
    if len(sets):
        i, top = pick(rng, sets), (1 << IMM_BITS) - 1
        old = int(words[i]) & top
        near = old + int(rng.integers(-4, 5))
        new = pick(
            rng, [near, near, near, 0, 1, 255, 4095, top, old * 2, int(rng.integers(top)), old ^ 1 << int(rng.integers(IMM_BITS))]
        )
        words[i] = int(words[i]) & ~top | new & top


def change_instruction(rng: np.random.Generator, d: Document, images: Images) -> None:
    """Bits of an instruction; one taken out, repeated, swapped with another, or put in: any word, or a SET."""
    name = _stream(rng, images)
    words = images[name].tolist()
    i, j = (int(rng.integers(len(words))) for _ in range(2))
    kind = int(rng.integers(6))
    if kind == 0:
        words[i] ^= 1 << int(rng.integers(32))
    elif kind == 1:
        del words[i]
    elif kind == 2:
        words.insert(j, words[i])
    elif kind == 3:
        words[i], words[j] = words[j], words[i]
    elif kind == 4:
        words.insert(i, int(rng.integers(1 << 32)))
    else:
        register = pick(rng, list(REGISTERS.values()))
        words.insert(
            i,
            Opcode.SET << REG_BITS + IMM_BITS | register.index << IMM_BITS | int(rng.integers(1 << int(rng.integers(1, IMM_BITS)))),
        )
    images[name] = np.array(words, np.uint32)


def change_image(rng: np.random.Generator, d: Document, images: Images) -> None:
    """Values of an image, its rows, its type or its shape; or the image is not there, or another's."""
    name = pick(rng, list(images))
    image, kind = images[name].copy(), rng.random()
    if kind < 0.5 and image.size:
        flat = image.reshape(-1).view(np.uint8)
        for _ in range(int(rng.integers(1, 5))):
            flat[rng.integers(len(flat))] ^= 1 if image.dtype == bool else 1 << int(rng.integers(8))
    elif kind < 0.8:
        axis = min(1, image.ndim - 1)
        rows = np.arange(max(0, image.shape[axis] + int(rng.integers(-3, 4))))
        image = np.take(image, rows, axis, mode="clip") if image.shape[axis] else image
    elif kind < 0.9:
        image = image.astype(pick(rng, [np.int8, np.uint8, np.int32, np.int64, np.float32, np.float64, np.bool_]))
    elif kind < 0.95:
        image = pick(rng, [image.reshape(-1), image[..., None], image[:0]])
    else:
        image = images[pick(rng, list(images))]
    images[name] = image


def change_host(rng: np.random.Generator, d: Document, images: Images) -> None:
    """A place among the host's steps, as `change_field` changes it; an operation becomes another, two change places, one goes twice."""
    host = d["host"]
    side = pick(rng, ["before", "after", "after", "after"])
    i, j = (int(rng.integers(len(host[side]))) for _ in range(2))
    kind = int(rng.integers(6))
    if kind == 0:
        host[side][i], host[side][j] = host[side][j], host[side][i]
    elif kind == 1:
        host[side].insert(i, copy.deepcopy(host[side][j]))
    elif kind == 2:
        operation = pick(rng, list(OPERATIONS.values()))
        values = {"function": "exp", "dtype": "int64", "mode": "reflect", "log": True, "keep": True, "largest": False, "value": 1.0}
        sizes = {"shape": [1, 1 << int(rng.integers(40))], "dims": [0], "indices": [0] * 9, "before": [1, 1 << 30], "after": [0, 0]}
        attributes = {f.name: (values | sizes).get(f.name, int(rng.integers(3))) for f in dataclasses.fields(operation)}
        host[side][i] |= {"op": operation.name, "attributes": attributes}
    elif kind == 3:
        host[side][i]["inputs"] = [pick(rng, [n for s in host[side] for n in s["outputs"]]) for _ in host[side][i]["inputs"]]
    else:
        change_field(rng, {"host": host}, images)


MUTATIONS: tuple[Callable[[np.random.Generator, Document, Images], None], ...] = (
    *(change_register, change_register, change_register),
    *(change_instruction, change_instruction),
    *(change_field, change_field),
    *(change_image, change_image),
    *(change_host, change_host),
    change_arch,
)


class Corpus:
    """Compiled random networks, small ones, as documents and images."""

    def __init__(self, folder: Path, count: int = 12, archs: tuple[ArchConfig, ...] = ARCHS):
        self.folder = folder
        self.seeds: list[tuple[Document, Images, dict[str, np.ndarray]]] = []
        seed = 0
        while len(self.seeds) < count:
            arch = archs[len(self.seeds) % len(archs)]
            case = random_case(seed, arch)
            seed += 1
            program = compile_graph(case.graph, name="seed", reuse=bool(seed % 2))
            if seed % 3 and not set(program.inputs) & set(program.outputs):
                program = hosted(program)
            if sum(len(s.imem) for s in program.segments) < 400:
                path = folder / "seed.sdn"
                program.save(path)
                with safe_open(path, framework="numpy") as f:
                    d = json.loads(f.metadata()["program"])
                    images = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
                self.seeds.append((d, images, case.inputs))

    def mutated(self, rng: np.random.Generator, mutations: Any = MUTATIONS) -> tuple[Path, dict[str, np.ndarray]]:
        """A file with one to three mutations, and inputs of the network that it was."""
        d, images, inputs = pick(rng, self.seeds)
        d, images = json.loads(json.dumps(d)), dict(images)
        for _ in range(int(rng.integers(1, 4))):
            # An earlier mutation may have taken away what this one changes.
            with contextlib.suppress(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
                pick(rng, mutations)(rng, d, images)
        path = self.folder / "mutated.sdn"
        write(path, d, images)
        return path, inputs


# -- the way through -----------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How far a file came: "load", "budget", "inputs", "run" (refused there, in words), "ran"."""

    stage: str
    text: str
    seconds: float
    """Processor time of the whole way."""


def _inputs(program: Program, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Two images for a program: those given where they fit, else zeros and ones."""
    found = {}
    for name in program.inputs:
        t = program.tensors[name]
        x = np.zeros((2, *t.shape), np.int16)
        x[1] = 1
        if name in given and given[name].shape[1:] == t.shape:
            low, high = program.arch.act_range(t.signed)
            x = np.resize(given[name], x.shape).clip(low, high).astype(np.int16)
        found[name] = x
    return found


def journey(path: Path, given: dict[str, np.ndarray], *, page: bool = False) -> Outcome:
    """Load and check, disassemble, golden model, timing model, the host's steps, and the report page if asked for.

    Whatever is no `SordinoError` comes out: a fault.
    """
    start = time.process_time()

    def outcome(stage: str, error: object = "") -> Outcome:
        text = str(error)
        text.encode()  # raises for what no terminal takes
        assert "\n\n" not in text and "\x1b" not in text and len(text) < 3000, text
        return Outcome(stage, text, time.process_time() - start)

    try:
        program = Program.load(path)
    except SordinoError as error:
        return outcome("load", error)
    if page:
        shown = CliRunner().invoke(disasm, [str(path)])
        if shown.exception is not None:
            raise shown.exception
        assert "\x1b" not in shown.output
    try:
        model, golden = Timing(program, LIMIT), Golden(program, LIMIT)
    except SordinoError as error:
        return outcome("budget", error)
    inputs = _inputs(program, given)
    try:
        outputs = golden.run(inputs, list(program.outputs)).outputs
        result = model.run(inputs)
        edges = Edges(program)
        values, _ = edges.enter({a.name: np.ones((2, *a.shape), np.float32) for a in program.edges.inputs})
        restored(program.edges, edges.leave(values, outputs), None)
    except SordinoError as error:
        return outcome("run", error)
    if page:
        stats = Stats.of(program, "timing", result)
        html = render(document("run", {"file": str(path), "arch": program.arch.to_dict(), "stats": stats.to_dict(), "time": None}))
        assert "<script>" not in html.replace("<script></script>", "") or "seed" in html
    return outcome("ran")


def against_rtl(path: Path, given: dict[str, np.ndarray]) -> str:
    """Runs a file on the RTL too: "equal" or "both refuse". Raises `AssertionError` for anything else."""
    from sordino_sim.rtl.backend import Verilator

    try:
        program = Program.load(path)
        model = Timing(program, LIMIT)
    except SordinoError:
        return "both refuse"
    inputs = _inputs(program, given)
    try:
        want = model.run(inputs, list(program.outputs))
    except SordinoError as error:
        want = error
    try:
        with Verilator(program, quiet=True, jobs=1, limit=LIMIT) as machine:
            got = machine.run(inputs)
    except SordinoError as error:
        assert isinstance(want, SordinoError), f"the models run it; the RTL says {error}"
        assert isinstance(want, TrapError) == isinstance(error, TrapError), (want, error)
        return "both refuse"
    assert not isinstance(want, SordinoError), f"the RTL runs it; the models say {want}"
    for name in program.outputs:
        assert np.array_equal(got.outputs[name], want.outputs[name]), name
    assert np.array_equal(got.records, want.records), "records"
    return "equal"


def summary(outcomes: Counter) -> dict[str, int]:
    return dict(sorted(outcomes.items()))
