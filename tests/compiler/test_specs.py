"""Every form between the exported graph and the instructions has a spec that a violation breaks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import SMALL, Net
from torch import nn

from sordino_compiler.capture import capture
from sordino_compiler.capture.rewrites import PASSES as REWRITES
from sordino_compiler.capture.rewrites import canonicalise
from sordino_compiler.driver import compile_graph
from sordino_compiler.emit.instructions import Outputs
from sordino_compiler.emit.mapping import Mapping
from sordino_compiler.emit.operation import View
from sordino_compiler.graph import Window
from sordino_compiler.ops import FAMILIES, OPERATORS
from sordino_compiler.passes import PASSES
from sordino_compiler.plan import plan
from sordino_compiler.schedule.parts import parts
from sordino_hw.spec.errors import CompileError

torch.set_num_threads(1)


def planned():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.MaxPool2d(2))
    return plan(capture(model, torch.zeros(1, 3, 8, 8)))


def test_plan_reads_only_what_is_planned_before():
    found = planned()
    found.check()
    with pytest.raises(AssertionError, match="reads what is not planned before it"):
        replace(found, layers=found.layers[::-1]).check()
    with pytest.raises(AssertionError, match="an output is not planned"):
        replace(found, layers=found.layers[:-1]).check()
    with pytest.raises(AssertionError, match="is planned twice"):
        replace(found, layers=[*found.layers, found.layers[-1]]).check()


def test_plan_knows_what_enters_a_table():
    found = planned()
    conv = next(x for x in found.layers if x.activation.table)
    conv.pre = None
    with pytest.raises(AssertionError, match="a table or a threshold without the node whose value enters it"):
        found.check()


def test_graph_is_checked_after_each_pass(monkeypatch):
    net = Net()
    net.conv("y", net.input("x", 3, 4, 4), 4)

    def breaking(graph):
        return replace(graph, nodes=[replace(n, inputs=("gone",)) if n.inputs else n for n in graph.nodes])

    monkeypatch.setattr("sordino_compiler.passes.PASSES", (*PASSES, breaking))
    with pytest.raises(CompileError, match=r"^conv 'y' \(net\.py:2\): input 'gone' is not defined before it$"):
        compile_graph(net.graph("y"))


def test_exported_graph_is_checked_after_each_rewrite(monkeypatch):
    module = capture(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))

    def breaking(module):
        nodes = list(module.graph.nodes)
        nodes[-1].prepend(nodes[0])

    monkeypatch.setattr("sordino_compiler.capture.rewrites.PASSES", (*REWRITES, breaking))
    with pytest.raises(RuntimeError):
        canonicalise(module)


def test_operation_fits_its_registers():
    net = Net()
    net.conv("y", net.input("x", 3, 4, 4), 4)
    node = net.nodes[-1]
    views = [View(n, n, shape, 0, 4, 1, np.arange(shape[0]), 1, range(16)) for n, shape in (("x", (3, 4, 4)), ("y", (4, 4, 4)))]
    (placed,) = parts(node, 0, views[:1], views[1], SMALL, False)
    (op,) = Outputs(placed, range(1), Mapping()).operations()
    op.check()
    with pytest.raises(CompileError, match=r"^conv 'y' \(net\.py:2\): register SX .* cannot hold 256: it goes from 0 to 255\."):
        replace(op, registers={**op.registers, "SX": 256}).check()


def test_every_operator_is_of_a_family():
    modules = {family.__name__ for family in FAMILIES}
    assert {entry.plan.__module__ for entry in OPERATORS.values()} == modules


def test_products_of_a_window_are_counted():
    rng = np.random.default_rng(0)
    for _ in range(50):
        h, w = (int(n) for n in rng.integers(3, 8, 2))
        kernel, stride, dilation = ((int(a), int(b)) for a, b in rng.integers(1, 4, (3, 2)))
        window = Window(kernel, stride, tuple(int(p) for p in rng.integers(0, 4, 4)), dilation)
        if min(window.out_size(h, w)) < 1:
            continue
        places = window.patches(np.arange(1, h * w + 1).reshape(1, 1, h, w))
        want = np.bincount(places.ravel(), minlength=h * w + 1)[1:].reshape(h, w)
        assert np.array_equal(window.products(h, w), want), window
