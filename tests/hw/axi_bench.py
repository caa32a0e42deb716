"""Bench pieces for the host port in Amaranth's simulator: an AXI4-Lite manager and the machine behind the port."""

import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial

from amaranth.hdl import ResetInserter, Signal
from amaranth.sim import Simulator

from sordino_hw.gateware.host.port import HostPort
from sordino_hw.spec import isa
from sordino_hw.spec.isa import Region
from sordino_hw.spec.latencies import Latencies


def address(region: Region, arch, row: int, piece: int = 0) -> int:
    """Byte address of one piece of a row; `row` includes the core (`row_of`)."""
    return region << isa.REGION_SHIFT | row * isa.row_bytes(isa.region_bits(arch, region)) | piece * 4


def row_of(region: Region, arch, core: int, row: int) -> int:
    """Number of a core's row in a region that every core has."""
    return core * isa.region_stride(arch, region) + row


NOISE = 0x5A5A_5A5A
"""What the window shows when no read is due."""


async def until(ctx, signal):
    """`ctx.tick().until(signal)`, which cannot be left pending at the end of a simulation (it raises when collected)."""
    while True:
        _, _, value = await ctx.tick().sample(signal)
        if value:
            return


class Manager:
    """Drives the five channels of `bus`, each at its own random pace; `pause` is the probability of an idle cycle.

    It also checks the rules of the handshake: a valid that was not accepted stays, with its payload.
    """

    REQUESTS = {"aw": ("awaddr",), "w": ("wdata", "wstrb"), "ar": ("araddr",)}
    RESPONSES = {"b": ("bresp",), "r": ("rdata", "rresp")}

    def __init__(self, bus, rng: random.Random, pause: float):
        self.bus, self.rng, self.pause = bus, rng, pause
        self.held: set[str] = set()  # channels whose responses are not accepted
        self.queues = {name: deque() for name in (*self.REQUESTS, *self.RESPONSES)}

    def signal(self, name):
        return getattr(self.bus, name)

    def add_to(self, sim: Simulator):
        for name, payload in self.REQUESTS.items():
            sim.add_testbench(partial(self._request, name=name, payload=payload), background=True)
        for name, payload in self.RESPONSES.items():
            sim.add_testbench(partial(self._response, name=name, payload=payload), background=True)

    async def _request(self, ctx, name, payload):
        queue, valid, ready = self.queues[name], self.signal(f"{name}valid"), self.signal(f"{name}ready")
        while True:
            if not queue or self.rng.random() < self.pause:
                await ctx.tick()
                continue
            for signal, value in zip(payload, queue.popleft(), strict=True):
                ctx.set(self.signal(signal), value)
            ctx.set(valid, 1)
            await until(ctx, ready)
            ctx.set(valid, 0)

    async def _response(self, ctx, name, payload):
        queue, valid, ready = self.queues[name], self.signal(f"{name}valid"), self.signal(f"{name}ready")
        signals = [self.signal(p) for p in payload]
        pending = None
        while True:
            accept = name not in self.held and self.rng.random() >= self.pause
            ctx.set(ready, accept)
            _, _, is_valid, *values = await ctx.tick().sample(valid, *signals)
            if pending is not None:
                assert is_valid and values == pending, f"{name}: {pending} was withdrawn before it was accepted"
            pending = values if is_valid and not accept else None
            if is_valid and accept:
                queue.append(tuple(values))

    async def write(self, ctx, at: int, data: int, strobe: int = 15):
        """One write; returns the response."""
        self.queues["aw"].append((at,))
        self.queues["w"].append((data, strobe))
        return (await self.take(ctx, "b"))[0]

    async def read(self, ctx, at: int):
        """One read: (data, response)."""
        self.queues["ar"].append((at,))
        return await self.take(ctx, "r")

    async def take(self, ctx, name, limit=10_000):
        """Waits for the next response of a channel."""
        for _ in range(limit):
            if self.queues[name]:
                return self.queues[name].popleft()
            await ctx.tick()
        raise AssertionError(f"no response on {name} in {limit} cycles")


@dataclass
class Machine:
    """Plays the array: memories behind the window, and a run that takes `duration` cycles."""

    dut: HostPort
    duration: int = 50
    memory: dict = field(default_factory=dict)
    """(region, row) -> integer"""
    starts: int = 0
    fetches: int = 0
    limit: int | None = None
    reset: Signal = field(default_factory=lambda: Signal(name="reset"))

    def add_to(self, sim: Simulator):
        sim.add_testbench(self._window, background=True)
        sim.add_testbench(self._control, background=True)

    async def _window(self, ctx):
        w, arch = self.dut.window, self.dut.arch
        answer, pieces, wrote, entire, ran = [], [], None, 0, False
        while True:
            _, _, region, row, piece, we, wdata, whole, re, running = await ctx.tick().sample(
                w.region, w.row, w.piece, w.we, w.wdata, w.whole, w.re, self.dut.control.running
            )
            assert not (we and re) and not ((we or re) and running), "the window was used while the machine runs"
            assert wdata == 0 or wrote or not (running and ran), "what the host wrote is not cleared while the machine runs"
            ran = running
            if wrote:
                (at, number), wrote = wrote, None
                bits = isa.region_bits(arch, at[0])
                assert number == len(pieces), "the pieces of a row do not follow each other"
                pieces.append(wdata)
                if number == 0:
                    entire = whole & ((1 << bits) - 1)
                if len(pieces) == -(-bits // len(w.wdata)):
                    self.memory[at] = sum(p << len(w.wdata) * i for i, p in enumerate(pieces)) & ((1 << bits) - 1)
                    assert at[0] != isa.Region.ACT or self.memory[at] == entire
                    pieces.clear()
            if we or re:
                assert not answer, "the window was used during a read"
                core, place = divmod(row, isa.region_stride(arch, region)) if Region(region) in isa.PER_CORE else (0, row)
                assert core < arch.cores and place < isa.region_depth(arch, region), "a row beyond the memory"
            if we:
                wrote = (region, row), piece
            if re or running:
                assert not pieces and not wrote, "a row is read, or the machine runs, while another is written"
            if re:
                self.fetches += 1
                answer = [(region, row, piece)] * Latencies(arch).window
            if we or re or running:
                ctx.set(w.rdata, NOISE)
            if answer:
                assert (region, row, piece) == answer.pop(), "region, row or piece changed during a read"
                if len(answer) == 0:
                    ctx.set(w.rdata, self.memory.get((region, row), 0) >> len(w.rdata) * piece)

    async def _control(self, ctx):
        c = self.dut.control
        while True:
            await until(ctx, c.start)
            self.starts += 1
            self.limit = ctx.get(c.limit)
            ctx.set(c.running, 1)
            ctx.set(c.halted, 0)
            for _ in range(self.duration):
                await ctx.tick()
            ctx.set(c.running, 0)
            ctx.set(c.halted, 1)
            ctx.set(c.trap, isa.Trap.WAIT)
            ctx.set(c.pc, 17)
            ctx.set(c.cycles, self.duration)
            ctx.set(c.ops, 3)


def simulate(arch, testbench, *, pause=0.0, seed=0):
    """Runs `testbench(ctx, manager, machine)` on a `HostPort(arch)`, which `machine.reset` resets; returns the machine."""
    dut = HostPort(arch)
    machine = Machine(dut)
    manager = Manager(dut.bus, random.Random(seed), pause)
    sim = Simulator(ResetInserter(machine.reset)(dut))
    sim.add_clock(1e-8)
    machine.add_to(sim)
    manager.add_to(sim)

    async def bench(ctx):
        await testbench(ctx, manager, machine)

    sim.add_testbench(bench)
    sim.run()
    return machine
