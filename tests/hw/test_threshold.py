"""The threshold stage against a plain function."""

import pytest
from amaranth.sim import Simulator

from sordino_hw.gateware.post.threshold import Threshold
from sordino_hw.spec.arch import ArchConfig

KINDS = [Threshold]
LATENCY = 2


def reference(value: int, threshold: int) -> int:
    return 0 if abs(value) < threshold else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event_bits", [8, 9])
def test_threshold(event_bits, kind, rng):
    """Every output is the reference of the inputs of `LATENCY` cycles before; a new value comes in every cycle."""
    dut = kind(ArchConfig(event_bits=event_bits))
    most = 1 << (event_bits - 1)
    values = [-most, -1, 0, 1, most - 1, *rng.integers(-most, most, size=500).tolist()]
    cases = [(v, t) for v in values[:5] for t in (0, 1, most - 1)] + [(v, int(rng.integers(0, most))) for v in values]

    async def testbench(ctx):
        seen = []
        for value, threshold in cases + [(0, 0)] * LATENCY:
            ctx.set(dut.value, value)
            ctx.set(dut.threshold, threshold)
            seen.append(ctx.get(dut.y))
            await ctx.tick()
        assert seen[LATENCY:] == [reference(*case) for case in cases]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
