"""The .sdn container: round trip, and every kind of damage refused as a `BinaryError` of one paragraph."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import BinaryError
from sordino_hw.spec.isa import Mode
from sordino_hw.spec.program import _IMAGES, Layer, Op, Program, Segment, Tensor

ARCH = ArchConfig(name="small", cores=2, lanes=8, ppu=4, act_depth=64, weight_depth=64, mask_depth=16, param_depth=8, imem_depth=64)


def program() -> Program:
    rng = np.random.default_rng(0)

    def segment(rows: int) -> Segment:
        a = Assembler()
        a.vec(
            Mode.MAX,
            **dict(OH=2, OW=2, KH=1, KX=1, SPAN=1, WORDS=1, H=2, W=2, SY=1, SX=1, DY=1, DX=1, REPY=1, REPX=1, A_OY=2, A_OX=1),
            **dict(O_BASE=4, O_OY=4, O_OX=2, DRAIN=2, LO=-3, HI=100, SPLIT=1, SLICES=2, RUN=1),
        )
        a.halt()
        return Segment(
            imem=a.imem,
            weight=rng.integers(-128, 128, (2, rows, 8)).astype(np.int8),
            mask=rng.random((2, rows, 8)) < 0.5,
            bias=rng.integers(-(1 << 31), 1 << 31, (2, 2, 4)).astype(np.int32),
            mantissa=rng.integers(8, 16, (2, 2, 4)).astype(np.int32),
            shift=rng.integers(0, 32, (2, 2, 4)).astype(np.int32),
            threshold=rng.integers(0, 256, (2, 2, 4)).astype(np.int32),
            table=rng.integers(-256, 256, 256 * (rows % 2)).astype(np.int16),
            ops=[Op(0, (8,))],
            cycle_limit=1000,
        )

    tensors = [
        Tensor("x", (3, 2, 3), 0.1, False, 0, 2, 1, (0, 1, 2), fold=2),
        Tensor("y", (10, 2, 2), 1 / 3, True, 4, 4, 2, (*range(8), 9, 12), layer=0, kept=False),
    ]
    layers = [Layer("conv", "conv", "model.py:3", ("x",), "y", 120, "2 groups x 1 slice")]
    return Program(
        *(ARCH, [segment(3), segment(4)], {t.name: t for t in tensors}, layers, ["x"], ["y"], {"name": "test", "n": [1]}),
        output_shapes=[(20, 2)],
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    program().save(tmp_path / "a.sdn")
    return tmp_path / "a.sdn"


def refused(path: Path) -> str:
    """Loads, and returns the message of the refusal: one paragraph that begins with the path."""
    with pytest.raises(BinaryError) as caught:
        Program.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n\n" not in message
    return message.removeprefix(f"{path}: ")


# -- round trip ----------------------------------------------------------------------------------------------------


def test_round_trip(saved):
    p, q = program(), Program.load(saved)
    for s, t in zip(p.segments, q.segments, strict=True):
        for name, dtype in _IMAGES.items():
            assert getattr(t, name).dtype == dtype
            np.testing.assert_array_equal(getattr(s, name), getattr(t, name), name)
        assert (s.ops, s.cycle_limit) == (t.ops, t.cycle_limit)
    for name in ("arch", "tensors", "layers", "inputs", "outputs", "meta", "input_shapes", "output_shapes"):
        assert getattr(p, name) == getattr(q, name), name
    assert list(q.tensors) == ["x", "y"] and q.input_shapes == [(3, 2, 3)] and q.output_shapes == [(20, 2)]


def test_save_replaces_and_leaves_nothing_else(saved):
    p = program()
    p.meta = {"name": "another"}
    p.save(saved)
    assert Program.load(saved).meta == p.meta and list(saved.parent.iterdir()) == [saved]


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(
        BinaryError, match=r"^cannot write .*: No such file or directory\. Choose a folder that exists and is writable\.$"
    ):
        program().save(tmp_path / "none" / "a.sdn")


def test_param_words_are_the_documented_layout():
    s = program().segments[0]
    words = s.param_words().reshape(2, 2, 4, 2)
    np.testing.assert_array_equal(words[..., 0].astype(np.int32), s.bias)
    for name, low, bits in (("mantissa", 0, 8), ("shift", 8, 5), ("threshold", 16, 8)):
        np.testing.assert_array_equal(words[..., 1] >> low & (1 << bits) - 1, getattr(s, name))


def test_pack_and_unpack_are_inverse():
    p = program()
    values = np.random.default_rng(1).integers(-128, 128, (3, 10, 2, 2)).astype(np.int16)
    addresses, words = p.pack("y", values)
    memory = np.zeros((3, ARCH.act_depth, ARCH.lanes), np.int16)
    memory[:, addresses] = words
    np.testing.assert_array_equal(p.unpack("y", memory), values)
    for c, slot in enumerate(p.tensors["y"].slots):
        for y in range(2):
            for x in range(2):
                assert (memory[:, 4 + 4 * y + 2 * x + slot // 8, slot % 8] == values[:, c, y, x]).all()
    assert (memory != 0).sum() == (values != 0).sum()


@given(st.data())
def test_folded_pixels_share_words(data):
    """Every layout: each channel is where the docstring of `Tensor` says, everything else is zero, and back again."""
    c, h, w = (data.draw(st.integers(1, n)) for n in (ARCH.lanes, 3, 9))
    fold = data.draw(st.integers(1, ARCH.lanes // c))
    words = -(-w // fold)
    slots = tuple(data.draw(st.permutations(range(c))))
    pixel_pitch = data.draw(st.integers(1, 2))
    row_pitch = words * pixel_pitch + data.draw(st.integers(0, 1))
    p = program()
    p.tensors["t"] = t = Tensor("t", (c, h, w), 1.0, True, 3, row_pitch, pixel_pitch, slots, fold=fold)
    p.inputs.append("t")
    p.input_shapes.append(t.shape)
    p.check()
    values = np.random.default_rng(w).integers(1, 128, (2, c, h, w)).astype(np.int16)
    addresses, packed = p.pack("t", values)
    assert len(addresses) == len(set(addresses)) == h * words and t.steps == words
    memory = np.zeros((2, ARCH.act_depth, ARCH.lanes), np.int16)
    memory[:, addresses] = packed
    np.testing.assert_array_equal(p.unpack("t", memory), values)
    np.testing.assert_array_equal(addresses, p.addresses("t").ravel())
    for i, y, x in np.ndindex(c, h, w):
        lane = slots[i] + x % fold * c
        assert (memory[:, 3 + y * row_pitch + x // fold * pixel_pitch, lane] == values[:, i, y, x]).all()
    assert np.count_nonzero(memory) == values.size


# -- damage --------------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path):
    assert refused(tmp_path / "a.sdn") == "no such file. `sordino compile` makes one."
    assert refused(tmp_path) == "no such file. `sordino compile` makes one."


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    lengths = {*range(16), *range(0, len(whole), 61), len(whole) - 1}
    for length in sorted(lengths):
        saved.write_bytes(whole[:length])
        refused(saved)
    saved.write_bytes(whole + b"\0")
    refused(saved)


def flipped(whole: bytes, bit: int) -> bytes:
    return whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]


def test_bit_flips_are_refused(saved, rng):
    """A flip anywhere: the length of the header, the header, the document, the images."""
    whole = saved.read_bytes()
    bits = {*range(64), *rng.integers(0, 8 * len(whole), 1500).tolist()}
    for bit in sorted(bits):
        saved.write_bytes(flipped(whole, bit))
        refused(saved)


@pytest.mark.slow
def test_every_bit_flip_is_refused(saved):
    whole = saved.read_bytes()
    for bit in range(8 * len(whole)):
        saved.write_bytes(flipped(whole, bit))
        refused(saved)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"PK\x03\x04" * 50, (2).to_bytes(8, "little") + b"{}"])
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "a.sdn"
    path.write_bytes(content)
    refused(path)


def test_safetensors_without_a_program(tmp_path):
    save_file({"a": np.zeros(3)}, tmp_path / "a.sdn")
    assert refused(tmp_path / "a.sdn").startswith("a safetensors file, but not a .sdn: it has no program document.")


# -- well-formed files with wrong contents: the checksum is right, as a forger or a faulty compiler would have it --


def forge(path: Path, document: str, images: dict[str, np.ndarray]) -> None:
    digest = hashlib.sha256(document.encode())
    for name in sorted(images):
        digest.update(f"\n{name} {images[name].dtype} {images[name].shape}\n".encode() + images[name].tobytes())
    save_file(images, path, {"program": document, "sha256": digest.hexdigest()})


def parts(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as f:
        return json.loads(f.metadata()["program"]), {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118


def test_a_forgery_without_changes_loads(saved):
    d, images = parts(saved)
    forge(saved, json.dumps(d), images)
    assert Program.load(saved).tensors == program().tensors


def test_another_version(saved):
    d, images = parts(saved)
    for version in (1, 5):
        forge(saved, json.dumps({**d, "version": version}), images)
        assert refused(saved) == f"format version {version}; this Sordino reads 2 to 4. Compile the model again."


def test_a_newer_version_says_which_sordino_is_needed(saved):
    d, images = parts(saved)
    mine = importlib.metadata.version("sordino")
    forge(saved, json.dumps({**d, "version": 5, "needs": "99.1"}), images)
    assert refused(saved) == (
        f"format version 5. It needs Sordino 99.1 or newer, and this is {mine}: update Sordino, or compile the model again with this one."
    )
    forge(saved, json.dumps({**d, "arch": {**d["arch"], "needs": "99.1", "burst": 2}}), images)
    assert refused(saved).startswith(f"architecture: unknown field 'burst'. It needs Sordino 99.1 or newer, and this is {mine}: ")


def test_another_hash(saved):
    d, images = parts(saved)
    forge(saved, json.dumps({**d, "arch_hash": 1}), images)
    assert re.match(r"architecture 'small' hashes to [0-9a-f]{8}, not 00000001\. ", refused(saved))


@pytest.mark.parametrize(
    "document",
    ["", "{", "null", "[]", "3", '"x"', "{}", "[" * 100_000, '{"version": 2}', '{"version": 3}', '{"version": 4}', "1" * 10_000],
)
def test_documents_that_are_no_program(saved, document):
    forge(saved, document, parts(saved)[1])
    assert refused(saved).startswith("the program document is malformed (")


WRONG = [None, -1, 0.5, 1 << 70, math.inf, math.nan, "", "x", [], [[]], {}, {"x": 1}, True]


def places(value, path=()):
    """Every place in a JSON document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def test_wrong_fields_are_refused_or_harmless(saved):
    """Every field of the document, replaced by values of every kind: a `BinaryError`, or a program that passes `check`
    and differs from the original in that field alone."""
    original, images = parts(saved)
    accepted = set()
    for path in places(original):
        for new in WRONG:
            d = replaced(original, path, new)
            if json.dumps(d) == json.dumps(original):
                continue
            forge(saved, json.dumps(d), images)
            try:
                p = Program.load(saved)
            except BinaryError as error:
                assert str(error).startswith(f"{saved}: ") and len(str(error)) < 2000
                continue
            p.check()
            assert {**json.loads(p._document()), "meta": 0} == {**d, "meta": 0}
            accepted.add(".".join(str(key) for key in path if not isinstance(key, int)))
    free = {
        "arch.name",
        "meta",
        "meta.n",
        "meta.name",
        "layers.name",
        "layers.kind",
        "layers.source",
        "layers.inputs",
        "layers.macs",
        "layers.mapping",
    }
    free |= {"layers.output", "tensors.layer", "tensors.scale", "tensors.signed", "tensors.kept", "segments.ops.macs_per_event"}
    free |= {"inputs", "outputs", "layers", "segments.ops"}
    assert accepted <= free, accepted - free


@pytest.mark.parametrize("key", ["meta", "layers", "inputs", "outputs"])
def test_wrong_fields_of_version_2_are_refused_or_harmless(saved, key):
    original, images = parts(Path(__file__).parent / "data" / "version2.sdn")
    accepted = 0
    for path in places(original[key]):
        for new in WRONG:
            forge(saved, json.dumps({**original, key: replaced(original[key], path, new)}), images)
            try:
                Program.load(saved).check()
                accepted += 1
            except BinaryError as error:
                assert str(error).startswith(f"{saved}: ") and len(str(error)) < 2000
    assert accepted or key in ("inputs", "outputs")  # another name of the model, or of a layer


@pytest.mark.parametrize(
    "key",
    [
        "version",
        "needs",
        "arch",
        "arch_hash",
        "segments",
        "tensors",
        "layers",
        "inputs",
        "outputs",
        "input_shapes",
        "output_shapes",
        "meta",
    ],
)
def test_missing_fields(saved, key):
    d, images = parts(saved)
    del d[key]
    forge(saved, json.dumps(d), images)
    assert refused(saved).startswith(f"the program document is malformed (KeyError: '{key}').")


def test_missing_and_superfluous_images(saved):
    d, images = parts(saved)
    forge(saved, json.dumps(d), {**images, "2.imem": images["0.imem"]})
    assert "the images ['2.imem'] are missing or superfluous" in refused(saved)
    forge(saved, json.dumps(d), {k: v for k, v in images.items() if k != "1.mask"})
    assert "the images ['1.mask'] are missing or superfluous" in refused(saved)


# -- check ---------------------------------------------------------------------------------------------------------


def broken(change) -> str:
    p = program()
    change(p, p.segments[1], p.tensors["y"])
    with pytest.raises(BinaryError) as caught:
        p.check()
    message = str(caught.value)
    assert message.startswith("program: ") and message.endswith(". Compile the model again.")
    return message[len("program: ") : -len(". Compile the model again.")]


def image(name: str, value: np.ndarray):
    return lambda p, s, t: setattr(s, name, value)


def element(name: str, value: int):
    return lambda p, s, t: getattr(s, name).__setitem__((0,) * getattr(s, name).ndim, value)


def field(**changes):
    return lambda p, s, t: p.tensors.__setitem__("y", dataclasses.replace(t, **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (image("imem", np.zeros(3, np.int64)), r"segment 1: imem has dtype int64, not uint32"),
        (image("imem", np.zeros(65, np.uint32)), r"segment 1: imem has 65 rows, the memory 64"),
        (image("weight", np.zeros((2, 4, 7), np.int8)), r"segment 1: weight has shape \(2, 4, 7\)"),
        (image("weight", np.zeros((1, 4, 8), np.int8)), r"segment 1: weight has shape \(1, 4, 8\)"),
        (image("weight", np.zeros((4, 8), np.int8)), r"segment 1: weight has shape \(4, 8\)"),
        (image("weight", np.zeros((2, 65, 8), np.int8)), r"segment 1: weight has 65 rows, the memory 64"),
        (image("mask", np.zeros((2, 17, 8), bool)), r"segment 1: mask has 17 rows, the memory 16"),
        (image("bias", np.zeros((2, 3, 4), np.int32)), r"segment 1: the parameter images differ in length"),
        (image("table", np.zeros(255, np.int16)), r"segment 1: table has 255 rows, not a multiple of 256"),
        (image("table", np.full(256, 256, np.int16)), r"segment 1: table holds 256\.\.256, beyond -256\.\.255"),
        (element("mantissa", 16), r"segment 1: mantissa holds \d+\.\.16, beyond 0\.\.15"),
        (element("shift", -1), r"segment 1: shift holds -1\.\.\d+, beyond 0\.\.31"),
        (element("threshold", 256), r"segment 1: threshold holds \d+\.\.256, beyond 0\.\.255"),
        (lambda p, s, t: setattr(s, "cycle_limit", 1 << 32), r"segment 1: cycle_limit 4294967296"),
        (lambda p, s, t: s.ops.append(Op(1, (1,))), r"segment 1: an operation names a layer that is not there"),
        (field(shape=(10, 2)), r"tensor y: shape \(10, 2\)"),
        (field(shape=(9, 2, 2)), r"tensor y: shape \(9, 2, 2\)"),
        (field(base=-1), r"tensor y: negative address"),
        (field(base=57), r"tensor y: ends at word 64, the memory has 64"),
        (field(scale=math.inf), r"tensor y: scale inf"),
        (field(scale=0.0), r"tensor y: scale 0\.0"),
        (field(fold=0), r"tensor y: fold 0 of 10 channels"),
        (field(fold=2), r"tensor y: fold 2 of 10 channels"),
        (field(shape=(2, 2, 2), slots=(0, 2), fold=2), r"tensor y: fold 2 of 2 channels"),
        (field(layer=1), r"tensor y: layer 1 is not there"),
        (field(name="z"), r"tensor y: its name is z"),
        (lambda p, s, t: p.outputs.append("q"), r"output 'q' is not in the tensor table"),
        (lambda p, s, t: p.inputs.append("x"), r"inputs: \['x', 'x'\] are none, or one of them twice"),
        (lambda p, s, t: p.outputs.append("x"), r"output_shapes: 1 shapes for 2 outputs"),
        (
            lambda p, s, t: p.output_shapes.__setitem__(0, (41,)),
            r"output_shapes: \(41,\) does not hold the values of 'y', whose .*",
        ),
        (lambda p, s, t: p.output_shapes.__setitem__(0, (-4, -10)), r"output_shapes: \(-4, -10\) does not hold the values .*"),
    ],
)
def test_check_names_the_field(change, message):
    assert re.fullmatch(message, broken(change))


def test_the_program_of_these_tests_is_sound():
    program().check()
