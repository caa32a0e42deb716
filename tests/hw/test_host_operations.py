"""Host steps: what each operation computes, what a file of them may hold, and that anything else is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
from test_program import program

from sordino_hw.spec.budget import cost, require_budget
from sordino_hw.spec.errors import BinaryError
from sordino_hw.spec.host import OPERATIONS, Argument, Group, Host, Kind, Leaf, Literal, Step, infer, paths, restore
from sordino_hw.spec.host.operations import (
    Cast,
    Choose,
    Combine,
    Concat,
    Cumulate,
    Expand,
    Flip,
    Gather,
    Map,
    Matmul,
    Pad,
    Permute,
    Position,
    Reduce,
    Reshape,
    Slice,
    Softmax,
    Take,
    Top,
)
from sordino_hw.spec.program import Program

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.5)
INDEX = np.tile(np.array([2, 0, 9], np.int64)[:, None], (5, 1, 4))

MEANING = {
    "map": (Map("sigmoid"), (X,), 1 / (1 + np.exp(-X))),
    "map of integers": (Map("neg"), (INDEX,), -INDEX),
    "not": (Map("not"), (X > 0,), X <= 0),
    "combine": (Combine("div"), (X, POSITIVE), X / POSITIVE),
    "combine repeats": (Combine("sub"), (X, X[:, :1]), X - X[:, :1]),
    "compare": (Combine("ge"), (X, POSITIVE), X >= POSITIVE),
    "choose": (Choose(), (X > 0, X, POSITIVE), np.where(X > 0, X, POSITIVE)),
    "cast": (Cast("uint8"), (POSITIVE * 40,), (POSITIVE * 40).astype(np.uint8)),
    "reshape": (Reshape((2, 6)), (X,), X.reshape(5, 2, 6)),
    "to nothing": (Reshape(()), (X[:, 0, 0],), X[:, 0, 0]),
    "permute": (Permute((1, 0)), (X,), X.transpose(0, 2, 1)),
    "expand": (Expand((3, 4)), (X[:, :1],), np.repeat(X[:, :1], 3, 1)),
    "slice": (Slice(1, 1, 4, 2), (X,), X[:, :, 1:4:2]),
    "take": (Take(0, (2, 2, 0)), (X,), X[:, [2, 2, 0]]),
    "flip": (Flip((0, 1)), (X,), X[:, ::-1, ::-1]),
    "concat": (Concat(1), (X, X), np.concatenate([X, X], 2)),
    "pad": (Pad((1, 0), (0, 2), "constant", 7.0), (X,), np.pad(X, ((0, 0), (1, 0), (0, 2)), constant_values=7)),
    "reflect": (Pad((2, 0), (0, 3), "reflect", 0.0), (X,), np.pad(X, ((0, 0), (2, 0), (0, 3)), "reflect")),
    "reduce": (Reduce("mean", (0, 1), False), (X,), X.mean((1, 2))),
    "keep": (Reduce("max", (1,), True), (X,), X.max(2, keepdims=True)),
    "position": (Position("min", 0, False), (X,), X.argmin(1)),
    "softmax": (Softmax(1, False), (X,), np.exp(X) / np.exp(X).sum(2, keepdims=True)),
    "log softmax": (Softmax(0, True), (X,), np.log(np.exp(X) / np.exp(X).sum(1, keepdims=True))),
    "gather": (Gather(0), (X, INDEX), np.take_along_axis(X, INDEX.clip(0, 2), 1)),
    "cumulate": (Cumulate(1), (X,), np.cumsum(X, 2)),
    "matmul": (Matmul(), (X, X.transpose(0, 2, 1)), np.einsum("nij,nkj->nik", X, X)),
}


def kind(x: np.ndarray) -> Kind:
    return Kind(str(x.dtype), x.shape[1:])


@pytest.mark.parametrize("name", MEANING)
def test_meaning_and_inferred_kind(name):
    operation, operands, expected = MEANING[name]
    names = tuple("abcd"[: len(operands)])
    step = Step(operation, names, ("y",))
    (inferred,) = infer(step, {n: kind(x) for n, x in zip(names, operands, strict=True)})
    (y,) = operation.run(*operands)
    assert kind(y) == inferred == Kind(str(expected.dtype), expected.shape[1:]) and len(y) == 5
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert 0 <= operation.work(tuple(map(kind, operands)), (inferred,)) <= 24 * max(x[0].size for x in (*operands, y))


def test_top_is_stable_and_in_order():
    x = np.array([[1, 3, 3, 0, 3]], np.float32)
    values, places = Top(0, 4, True).run(x)
    assert values.tolist() == [[3, 3, 3, 1]] and places.tolist() == [[1, 2, 4, 0]] and places.dtype == np.int64
    assert Top(0, 2, False).run(x)[1].tolist() == [[3, 0]]


def test_every_operation_has_a_meaning_tested_here():
    assert {op.name for op, _, _ in MEANING.values()} | {"top"} == set(OPERATIONS)


REAL, WHOLE, TRUTH = Kind("float32", (3, 4)), Kind("int64", (3, 4)), Kind("bool", (3, 4))
BROKEN = {
    "unknown function": (Map("eval"), (REAL,)),
    "function of another dtype": (Map("exp"), (WHOLE,)),
    "two dtypes": (Combine("add"), (REAL, WHOLE)),
    "division of integers": (Combine("div"), (WHOLE, WHOLE)),
    "no broadcast": (Combine("add"), (REAL, Kind("float32", (2, 4)))),
    "other rank": (Combine("add"), (REAL, Kind("float32", (4,)))),
    "condition of floats": (Choose(), (REAL, REAL, REAL)),
    "unknown dtype": (Cast("object"), (REAL,)),
    "other size": (Reshape((3, 5)), (REAL,)),
    "negative size": (Reshape((-3, -4)), (REAL,)),
    "huge shape": (Expand((1 << 40, 1 << 40)), (Kind("float32", (1, 1)),)),
    "many dimensions": (Reshape((1,) * 17), (Kind("float32", (1,)),)),
    "no permutation": (Permute((0, 0)), (REAL,)),
    "beyond the end": (Slice(1, 0, 5, 1), (REAL,)),
    "no step": (Slice(1, 0, 4, 0), (REAL,)),
    "empty slice": (Slice(1, 2, 2, 1), (REAL,)),
    "dimension that is not there": (Slice(2, 0, 1, 1), (REAL,)),
    "negative dimension": (Softmax(-1, False), (REAL,)),
    "index beyond": (Take(0, (3,)), (REAL,)),
    "negative index": (Take(0, (-1,)), (REAL,)),
    "no index": (Take(0, ()), (REAL,)),
    "dimension twice": (Flip((0, 0)), (REAL,)),
    "other shapes": (Concat(0), (REAL, Kind("float32", (3, 5)))),
    "negative padding": (Pad((-1, 0), (0, 0), "constant", 0.0), (REAL,)),
    "huge padding": (Pad((1 << 60, 0), (0, 0), "constant", 0.0), (REAL,)),
    "reflection beyond": (Pad((3, 0), (0, 0), "reflect", 0.0), (REAL,)),
    "a fraction among integers": (Pad((1, 0), (0, 0), "constant", 0.5), (WHOLE,)),
    "infinity among integers": (Pad((1, 0), (0, 0), "constant", math.inf), (WHOLE,)),
    "mode of code": (Pad((1, 0), (0, 0), "linear_ramp", 0.0), (REAL,)),
    "no dimensions": (Reduce("sum", (), True), (REAL,)),
    "mean of integers": (Reduce("mean", (0,), True), (WHOLE,)),
    "softmax of integers": (Softmax(0, False), (WHOLE,)),
    "more than there are": (Top(0, 4, True), (REAL,)),
    "none of them": (Top(0, 0, True), (REAL,)),
    "gather by floats": (Gather(0), (REAL, REAL)),
    "gather of another shape": (Gather(0), (REAL, Kind("int64", (3, 5)))),
    "sums of truths": (Cumulate(0), (TRUTH,)),
    "other inner size": (Matmul(), (REAL, REAL)),
    "too few operands": (Combine("add"), (REAL,)),
    "too many operands": (Map("exp"), (REAL, REAL)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rules(name):
    operation, kinds = BROKEN[name]
    names = tuple(f"v{i}" for i in range(len(kinds)))
    outputs = ("y", "z") if operation.name == "top" else ("y",)
    with pytest.raises((ValueError, OverflowError)):
        infer(Step(operation, names, outputs), dict(zip(names, kinds, strict=True)))


# -- programs ----------------------------------------------------------------------------------------------------------


def hosted() -> Program:
    """The program of `test_program` with steps around it: x / 2 before it; softmax and the input itself behind it."""
    p = program()
    host = Host(
        (Argument("image", (3, 2, 3)), Argument("other", (7,))),
        (Step(Combine("div"), ("image", "two"), ("x",), "div (model.py:3)"),),
        (Step(Softmax(0, False), ("y",), ("p",)), Step(Top(0, 2, True), ("p",), ("best", "where"))),
        Group("dict", (Leaf("p", joined=True), Group("namedtuple", (Leaf("best"), Leaf("where")), ("values", "indices"), "topk"),
                       Group("list", (Leaf("other"), Literal(None), Literal(3), Leaf("two")))), ("p", "top", 7)),
        {"two": np.array(2, np.float32).reshape(1, 1, 1)},
    )  # fmt: skip
    return dataclasses.replace(p, host=host)


def test_round_trip_and_meaning(tmp_path):
    p = hosted()
    p.save(tmp_path / "p.sdn")
    q = Program.load(tmp_path / "p.sdn")
    assert dataclasses.replace(q.host, constants={}) == dataclasses.replace(p.host, constants={})
    assert q.host.constants["two"].tolist() == [[[2]]] and q.host.constants["two"].dtype == np.float32
    given = {"image": RNG.random((4, 3, 2, 3)).astype(np.float32), "other": RNG.random((4, 7)).astype(np.float32)}
    values = q.host.enter(given)
    assert np.array_equal(values["x"], given["image"] / 2)
    y = RNG.random((4, 20, 2)).astype(np.float32)
    found = q.host.leave(values, {"y": y})
    assert np.allclose(found["p"].sum(1), 1) and found["where"].shape == (4, 2, 2) and "two" not in found
    made = restore(q.host.returns, lambda leaf: found.get(leaf.name, leaf.name))
    assert list(made) == ["p", "top", 7] and made["top"].indices is found["where"] and made[7][1:] == [None, 3, "two"]
    assert [path for path, _ in paths(q.host.returns)] == ["p", "top.values", "top.indices", "7.0", "7.1", "7.2", "7.3"]


def _with(**changes):
    return lambda p: dataclasses.replace(p, host=dataclasses.replace(p.host, **changes))


STEP = Step(Map("exp"), ("y",), ("z",))
LINKS = {
    "an operand that is not there": (_with(after=(Step(Map("exp"), ("nowhere",), ("z",)),)), "'nowhere' is not defined before it"),
    "a name twice": (_with(after=(STEP, STEP)), "'z' is defined twice"),
    "a step that overwrites an output": (_with(after=(Step(Map("exp"), ("y",), ("y",)),)), "'y' is defined twice"),
    "a result too many": (_with(after=(Step(Map("exp"), ("y",), ("z", "w")),)), "map has 1 results, not 2"),
    "before the array from behind it": (_with(before=(Step(Map("exp"), ("y",), ("x",)),)), "'y' is not defined before it"),
    "nothing enters": (_with(before=()), "nothing defines the array's input 'x'"),
    "another shape enters": (_with(before=(Step(Reduce("sum", (0,), False), ("image",), ("x",)),)), "the array's input 'x' is float32 "),
    "nothing is returned by that name": (_with(returns=Leaf("nowhere")), "'nowhere' is returned, and nothing defines it"),
    "joined without a dimension": (_with(after=(Step(Reduce("sum", (0, 1), False), ("y",), ("z",)),), returns=Leaf("z", True)), "'z' has no"),
    "no inputs": (_with(inputs=()), "there is no input"),
    "a constant of texts": (_with(constants={"two": np.array(["x"])}), "constant 'two' has dtype <U1"),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_links(name):
    change, message = LINKS[name]
    with pytest.raises(BinaryError, match=f"^program: host: .*{message}"):
        change(hosted()).check()


DOCUMENTS = {
    "not an object": lambda d: d.update(host=[]),
    "a key too many": lambda d: d["host"].update(code="x"),
    "an unknown operation": lambda d: d["host"]["after"][0].update(op="eval"),
    "an attribute too many": lambda d: d["host"]["after"][0]["attributes"].update(code="x"),
    "an attribute of another type": lambda d: d["host"]["after"][0]["attributes"].update(dim=True),
    "a number that is a text": lambda d: d["host"]["after"][0]["attributes"].update(dim="0"),
    "an unknown structure": lambda d: d["host"].update(returns={"group": "set", "items": [], "keys": [], "name": ""}),
    "a structure without end": lambda d: d["host"].update(returns=json.loads('{"group":"list","keys":[],"name":"","items":[' * 40 + ']}' * 40)),
    "a field that is no identifier": lambda d: d["host"]["returns"]["items"][1].update(keys=["values", "__class__"]),
    "a keyword": lambda d: d["host"]["returns"]["items"][1].update(name="class"),
    "a key that is a list": lambda d: d["host"]["returns"].update(keys=[[], "a", "b"]),
    "two equal keys": lambda d: d["host"]["returns"].update(keys=["a", "a", "b"]),
    "a literal that is a list": lambda d: d["host"].update(returns={"literal": []}),
    "a constant that is not there": lambda d: d["host"]["constants"].append("more"),
    "a shape that is a number": lambda d: d["host"]["inputs"][0].update(shape=3),
}  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(name, tmp_path):
    from test_program import forge, parts, refused

    path = tmp_path / "p.sdn"
    hosted().save(path)
    d, images = parts(path)
    DOCUMENTS[name](d)
    forge(path, json.dumps(d), images)
    assert refused(path)


def test_work_and_memory_count_in_the_budget():
    p = hosted()
    plain = cost(dataclasses.replace(p, host=None))
    found = cost(p)
    assert found.host == 18 + 4 * 40 + 40 * 5 and plain.host == 0 and found.memory > plain.memory and found.steps == plain.steps
    big = Step(Expand((20, 2, 1 << 19)), ("wide",), ("huge",))
    wide = Step(Reshape((20, 2, 1)), ("y",), ("wide",))
    many = [Step(Matmul(), ("huge", "turned"), ("product",)), Step(Permute((0, 2, 1)), ("huge",), ("turned",))][::-1]
    host = dataclasses.replace(p.host, after=(wide, big, *many), returns=Leaf("product"))
    q = dataclasses.replace(p, host=host)
    q.check()
    assert cost(q).host > 40 << 19
    with pytest.raises(BinaryError, match=r"element operations of the host .* give --limit"):
        require_budget(q, 1e-3)
