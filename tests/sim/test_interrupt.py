"""Long runs can be stopped: by Ctrl-C within half a second, and by the cycle limit as the machine is."""

import _thread
import threading
import time

import numpy as np
import pytest

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.errors import BinaryError, TrapError
from sordino_hw.spec.isa import Trap
from sordino_hw.spec.program import Layer, Op, Program, Segment, Tensor
from sordino_sim.golden.model import Golden
from sordino_sim.timing.model import Timing

ARCH = ArchConfig(
    name="interrupted", lanes=8, ppu=8, act_depth=1 << 19, weight_depth=16, mask_depth=8, param_depth=2, state_depth=2
)


def program(outputs: int, cycle_limit: int = (1 << 32) - 1, kernel: int = 32) -> Program:
    """A sound program of `outputs` x `outputs` outputs, each of `kernel` x `kernel` reads of word 0."""
    a = Assembler()
    a.conv(
        **dict(OH=outputs, OW=outputs, KH=kernel, KX=kernel, SPAN=1, WORDS=1, H=1, W=1, REPY=1, REPX=1, A_BASE=0),
        **dict(O_BASE=1, O_OY=outputs, O_OX=1),
        **dict(DRAIN=1, LO=0, HI=255, SPLIT=1, SLICES=1, RUN=1),
    )
    a.halt()
    zeros = {name: np.zeros((1, 1, 8), np.int32) for name in ("bias", "mantissa", "shift", "threshold")}
    segment = Segment(
        a.imem,
        weight=np.ones((1, 8, 8), np.int8),
        mask=np.ones((1, 1, 8), bool),
        table=np.zeros(0, np.int16),
        ops=[Op(0, (8,))],
        cycle_limit=cycle_limit,
        **zeros,
    )
    lanes = tuple(range(8))
    tensors = {
        "x": Tensor("x", (8, 1, 1), 1.0, False, 0, 1, 1, lanes, -1),
        "y": Tensor("y", (8, outputs, outputs), 1.0, False, 1, outputs, 1, lanes, 0),
    }
    return Program(ARCH, [segment], tensors, [Layer("y", "conv", "", ("x",), "y", 0)], ["x"], ["y"])


X = np.ones((1, 8, 1, 1), np.int16)


def heard_after(model: Timing) -> float:
    """Seconds from an interrupt in the middle of a run to its end. Another thread sends it, which must get to run for that."""
    sent: list[float] = []

    def beside() -> None:
        time.sleep(0.5)
        sent.append(time.perf_counter())
        _thread.interrupt_main()

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.run({"x": X})
        return time.perf_counter() - sent[0]
    finally:
        thread.join()


def test_interrupt_is_heard():
    """A model that has a minute of work ahead stops within half a second of Ctrl-C. (A busy machine gets three tries.)"""
    Timing(program(2)).run({"x": X})  # compiled
    model = Timing(program(512))
    start = time.perf_counter()
    assert any(heard_after(model) < 0.5 for _ in range(3))
    assert time.perf_counter() - start < 30


def test_cycle_limit_stops_the_models():
    """The limit ends a run early in either model: at once where registers show that it cannot be kept, else soon after it is passed."""
    for model in (Golden, Timing):
        start = time.process_time()
        with pytest.raises(TrapError, match=r"^trap CYCLES ") as caught:
            model(program(512, cycle_limit=10_000)).run({"x": X})
        assert caught.value.cause is Trap.CYCLES and time.process_time() - start < 2
    # 8 events for each of 512 x 512 outputs take eight times the least that registers show.
    start = time.process_time()
    with pytest.raises(TrapError, match="the run takes more than 400000 cycles") as caught:
        Timing(program(512, cycle_limit=400_000, kernel=1)).run({"x": X})
    assert caught.value.cause is Trap.CYCLES


@pytest.mark.parametrize("model", [Golden, Timing])
def test_too_much_is_refused_before_it_runs(model):
    with pytest.raises(
        BinaryError, match=r"^The program may take 3\.41e\+10 steps an image .* give --limit 35, or limit=35 in Python"
    ):
        model(program(512, kernel=255))
