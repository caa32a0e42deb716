"""Index maps: chains of views, drawn at random, against PyTorch on data; and the pieces and readings that they amount to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx import symbolic_trace

from sordino_compiler.fx.index_map import IndexMap, followed, positions
from sordino_compiler.graph import Graph, Input, Requant, Value, Window
from sordino_compiler.ops import Flatten, Move, Slice
from sordino_compiler.ops.pieces import count, pieces, runs
from sordino_hw.spec.arch import PRESETS
from sordino_hw.spec.errors import CompileError

ARCH = PRESETS["ulx3s-85f"]


@st.composite
def views(draw, shape: tuple[int, ...]):
    """A view of a tensor of this shape, batch first: a function, and the shape that it gives."""
    rank = len(shape)
    dim = draw(st.integers(1, rank - 1))
    kind = draw(
        st.sampled_from(
            ["permute", "slice", "flip", "roll", "flatten", "split", "index", "repeat", "unsqueeze", "expand", "select"]
        )
    )
    if kind == "permute":
        order = [0, *draw(st.permutations(range(1, rank)))]
        return lambda x: torch.permute(x, order)
    if kind == "slice":
        start, step = draw(st.integers(0, shape[dim] - 1)), draw(st.integers(1, 3))
        return lambda x: torch.narrow(x, dim, start, shape[dim] - start)[(slice(None),) * dim + (slice(None, None, step),)]
    if kind == "roll":
        by = draw(st.integers(-3, 3))
        return lambda x: torch.roll(x, by, dim)
    if kind == "flatten" and rank > 2:
        return lambda x: torch.flatten(x, min(dim, rank - 2), min(dim, rank - 2) + 1)
    if kind == "split" and rank < 6:
        parts = draw(st.sampled_from([n for n in range(1, shape[dim] + 1) if shape[dim] % n == 0]))
        return lambda x: torch.unflatten(x, dim, (parts, -1))
    if kind == "index":
        chosen = draw(st.lists(st.integers(0, shape[dim] - 1), min_size=1, max_size=6))
        return lambda x: torch.index_select(x, dim, torch.tensor(chosen))
    if kind == "repeat":
        return lambda x: torch.repeat_interleave(x, 2, dim)
    if kind == "unsqueeze" and rank < 6:
        return lambda x: torch.unsqueeze(x, dim)
    if kind == "expand" and 1 in shape[1:]:
        at = shape.index(1, 1)
        return lambda x: torch.broadcast_to(x, [3 if i == at else n for i, n in enumerate(shape)])
    if kind == "select" and rank > 3:
        return lambda x: torch.select(x, dim, shape[dim] // 2)
    return lambda x: torch.flip(x, (dim,))


@st.composite
def chains(draw):
    """The shape of a source, and a chain of views of it that ends in two to four dimensions."""
    shape = (2, *draw(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))))
    found, x = [], torch.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        f = draw(views(tuple(x.shape)))
        if f(x).numel() <= 600:
            found.append(f)
            x = f(x)
    if x.dim() > 4:
        found.append(lambda x: torch.flatten(x, 3))
    return shape, found


class Chain(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def forward(self, x):
        for f in self.parts:
            x = f(x)
        return x


def mapped(shape, parts) -> tuple[np.ndarray, np.ndarray]:
    """The index map of a chain, and what PyTorch makes of one image of consecutive numbers."""
    x = torch.arange(int(np.prod(shape)), dtype=torch.float64).reshape(shape)
    module = symbolic_trace(Chain(parts))
    source = next(n for n in module.graph.nodes if n.op == "placeholder")
    source.meta["val"] = x
    known = {source: IndexMap(source, positions(source, 2), 2)}
    for node in module.graph.nodes:
        moving = [n for n in node.all_input_nodes if n in known]
        if node.op == "call_function" and moving:
            known[node] = followed(module, node, moving[0], known[moving[0]])
    (end,) = next(n for n in module.graph.nodes if n.op == "output").all_input_nodes
    found = known[end]
    assert found.problem == ""
    return found.index.numpy(), Chain(parts)(x)[0].numpy()


@settings(max_examples=60, deadline=None)
@given(chains())
def test_a_chain_of_views(chain):
    shape, parts = chain
    index, expected = mapped(shape, parts)
    np.testing.assert_array_equal(index.ravel(), expected.ravel())
    size = shape[1:]
    rebuilt = np.full(index.shape, -1)
    for piece in pieces(index, size):
        for i, row in enumerate(piece.rows):
            for j, column in enumerate(piece.columns):
                y, x = (a + i * piece.down[n] + j * piece.right[n] for n, a in enumerate((piece.y, piece.x)))
                assert (rebuilt[:, row, column] == -1).all()
                rebuilt[:, row, column] = np.ravel_multi_index((piece.channels, y, x), size)
    np.testing.assert_array_equal(rebuilt, index)
    assert count(index, size) == len(list(pieces(index, size)))


def test_runs_are_the_longest_from_the_front():
    anchors = np.array([0, 5, 1, 6, 2, 7, 9])[:, None]
    assert [(list(r), int(by[0])) for r, by in runs([b""] * 7, anchors)] == [([0, 2, 4], 1), ([1, 3, 5], 1), ([6], 0)]


def test_a_batch_that_moves_is_seen():
    x = torch.zeros(2, 3, 4, 4)
    module = symbolic_trace(Chain([lambda x: torch.permute(x, (1, 0, 2, 3))]))
    source = next(iter(module.graph.nodes))
    source.meta["val"] = x
    node = next(n for n in module.graph.nodes if n.op == "call_function")
    found = followed(module, node, source, IndexMap(source, positions(source, 2), 2))
    assert found.problem == "the batch is not the first dimension any more"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v, out: Slice(out, ("x",), channels=(0, 0)),
        lambda v, out: Slice(out, ("x",), channels=(0, 3)),
        lambda v, out: Slice(out, ("x",), channels=(0, 1), first=12, steps=(4, 1)),
        lambda v, out: Slice(out, ("x",), channels=(0, 1), first=0, steps=(-1, 1)),
        lambda v, out: Flatten(out, ("x",), index=np.array([1, 1])),
        lambda v, out: Flatten(out, ("x",), index=np.array([1, 48])),
        lambda v, out: Move(out=out, inputs=("x",), index=np.zeros((2, 2, 2), int), size=(1, 1, 1), window=Window((1, 1)), requant=Requant.identity(2, ARCH, True)),
        lambda v, out: Move(out=out, inputs=("x",), index=np.full((2, 2, 2), 48), size=v.shape, window=Window((1, 1)), requant=Requant.identity(2, ARCH, True)),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node_is_said(wrong):
    v = Value("x", (3, 4, 4), 1.0, True)
    node = wrong(v, Value("y", (2, 2, 2), 1.0, True))
    graph = Graph(ARCH, [Input(v, ()), node], ["y"])
    with pytest.raises(CompileError, match=r"^(slice|flatten|move) 'y': "):
        graph.check()
