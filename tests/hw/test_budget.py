"""What a program may take is known before it runs, and a program that takes too much is refused."""

import re
from types import SimpleNamespace

import pytest

from sordino_hw.spec import budget
from sordino_hw.spec.arch import PRESETS
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.budget import Cost, cost, require_budget
from sordino_hw.spec.errors import BinaryError
from sordino_hw.spec.isa import Flag, Mode
from sordino_hw.spec.program import Program

REGISTERS = {
    **dict(OH=3, OW=5, KH=2, KX=2, SPAN=2, WORDS=2, H=3, W=9, SY=1, SX=1, DY=1, DX=2, REPY=1, REPX=1),
    **dict(DRAIN=1, SPLIT=1, SLICES=2, RUN=1),
}


def program(**changes) -> Program:
    """Two operations of `REGISTERS`: what `cost` reads of a program is its architecture and its streams."""
    a = Assembler()
    a.conv(**REGISTERS | changes)
    a.vec(Mode.MAC, Flag.RESIDUAL)
    a.halt()
    return SimpleNamespace(arch=PRESETS["ulx3s-85f"], segments=[SimpleNamespace(imem=a.imem)], host=None)  # type: ignore[return-value]


def test_steps():
    """15 outputs, each of 4 spans with 4 words for 2 slices, and a stored row; the second one with 2 residual words too."""
    assert cost(program()).steps == 15 * (4 + 4 * 4 * 2 + 1) + 15 * (4 + 4 * 4 * 2 + 2 + 1)


def test_memory_grows_with_the_matrix_and_the_outputs():
    small, wide, large = (cost(program(**c)).memory for c in ({}, {"WORDS": 200}, {"OH": 4000, "OW": 4000}))
    assert wide - small > 198 * 8 * 32 * 2 * 32 * 16
    assert large - small > 4000 * 4000 * 16
    a = PRESETS["ulx3s-85f"]
    assert small > a.act_depth * a.lanes * 18 + a.cores * a.weight_depth * a.lanes


def test_refusal_names_the_limit_that_would_do(monkeypatch):
    monkeypatch.setattr(budget, "STEPS", 1000)
    steps = cost(program()).steps
    assert steps == 1140
    require_budget(program(), 1.2)
    with pytest.raises(BinaryError) as caught:
        require_budget(program(), 1)
    assert re.fullmatch(
        r"The program may take 1\.14e\+03 steps an image .*: 1\.14 times what is allowed .* give --limit 2, or limit=2 in Python; .*",
        str(caught.value),
    )
    require_budget(program(), 2)
    with pytest.raises(BinaryError):
        require_budget(program(), 0)


def test_huge_registers_cost_no_time():
    top = dict(OH=4095, OW=4095, KH=255, KX=255, SPAN=255, WORDS=255)
    found = cost(program(**top))
    assert isinstance(found, Cost) and found.steps > 10**17
    with pytest.raises(BinaryError, match=r"steps an image"):
        require_budget(program(**top), 1e6)
