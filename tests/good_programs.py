"""Small networks that run exactly as the models say, also on a machine that was disturbed before."""

from dataclasses import dataclass

import numpy as np

from random_layers import ARCHS, random_case
from sordino_compiler.driver import compile_graph
from sordino_hw.spec.isa import Cause, Region, Trap
from sordino_hw.spec.program import Program
from sordino_sim.golden.model import Golden
from sordino_sim.rtl.images import segment_images
from sordino_sim.rtl.machine import Rtl, Run
from sordino_sim.timing.model import Timing

ARCH = next(a for a in ARCHS if a.cores == 4 and a.lanes == 8)


@dataclass
class GoodProgram:
    """A small network, one image, and what the models say of it."""

    program: Program
    inputs: dict[str, np.ndarray]

    def __post_init__(self):
        self.outputs = Golden(self.program).run(self.inputs).outputs
        self.records = Timing(self.program).run(self.inputs).records[0]

    def load(self, rtl: Rtl) -> None:
        """Writes everything that the program needs."""
        for (region, core), image in segment_images(self.program.segments[0]).items():
            rtl.write(region, image, core=core)

    def run_on(self, rtl: Rtl) -> None:
        """Loads what a stream of instructions may have changed, runs, compares."""
        p, (segment,) = self.program, self.program.segments
        for name in p.inputs:
            addresses, words = p.pack(name, self.inputs[name][0])
            rtl.write(Region.ACT, words, addresses)
        rtl.write(Region.IMEM, segment.imem)
        run = rtl.run(segment.cycle_limit)
        assert run == Run(Trap.NONE, len(segment.imem) - 1, int(self.records[:, 0, : len(Cause)].sum()), len(segment.ops))
        self.compare(rtl)

    def compare(self, rtl: Rtl) -> None:
        """Reads records and outputs of the last run, and compares them with the models'."""
        assert np.array_equal(rtl.records(len(self.records)), self.records)
        for name, want in self.outputs.items():
            rows = np.unique(self.program.addresses(name))
            memory = np.zeros((ARCH.act_depth, ARCH.lanes), np.int16)
            memory[rows] = rtl.read(Region.ACT, rows)
            assert np.array_equal(self.program.unpack(name, memory), want[0])


def good_programs(rng: np.random.Generator, count: int) -> list[GoodProgram]:
    """Small single-segment networks of `ARCH`."""
    found: list[GoodProgram] = []
    while len(found) < count:
        case = random_case(int(rng.integers(1 << 40)), ARCH)
        program = compile_graph(case.graph)
        if len(program.segments) == 1 and len(program.ops) >= 2:
            good = GoodProgram(program, {name: x[:1] for name, x in case.inputs.items()})
            if good.records[:, 0].sum() < 1500:
                found.append(good)
    return found
