"""cocotb benches of the accelerator's port (run by test_cocotb.py inside the simulator), with cocotbext-axi as the host.

Every channel pauses at random; cocotb prints the seed. `SORDINO_BENCH` names a folder with the binary of a network
(`network.sdn`) and, in `vectors.npz`, its inputs (`in_*`), the golden model's outputs (`out_*`) and records.
"""

import logging
import os
import random
from pathlib import Path

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import Combine, RisingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster, AxiResp

import cocotb
from sordino_hw.spec import isa
from sordino_hw.spec.asm import Assembler
from sordino_hw.spec.isa import CSR, Region, Trap, region_bits, row_pieces
from sordino_hw.spec.program import Program
from sordino_sim.rtl.images import addresses, decode, encode, segment_images

FOLDER = Path(os.environ["SORDINO_BENCH"])


class Host:
    """The third-party bus master, and rows of memories in terms of it."""

    def __init__(self, dut, arch):
        self.dut, self.arch = dut, arch
        logging.getLogger("cocotb.top.s_axil").setLevel(logging.WARNING)
        self.axi = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)

    async def start(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        self.dut.rst.value = 1
        for _ in range(4):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    def pause(self, most: float):
        """Lets every channel pause at random, each with its own probability below `most`."""

        def generator(probability):
            while True:
                yield random.random() < probability

        w, r = self.axi.write_if, self.axi.read_if
        for channel in (w.aw_channel, w.w_channel, w.b_channel, r.ar_channel, r.r_channel):
            channel.set_pause_generator(generator(random.uniform(0, most)))

    async def write_row(self, region, row, core, pieces):
        answer = await self.axi.write(int(addresses(self.arch, region, row, core)), pieces.astype("<u4").tobytes())
        assert answer.resp == AxiResp.OKAY

    async def read_row(self, region, row, core):
        count = row_pieces(region_bits(self.arch, region))
        answer = await self.axi.read(int(addresses(self.arch, region, row, core)), 4 * count)
        assert answer.resp == AxiResp.OKAY
        return np.frombuffer(answer.data, "<u4").astype(np.uint32)

    async def write(self, region, rows, index=None, core=0):
        for i, pieces in enumerate(encode(self.arch, region, rows)):
            await self.write_row(region, i if index is None else int(index[i]), core, pieces)

    async def read(self, region, index, core=0):
        return decode(self.arch, region, np.stack([await self.read_row(region, int(row), core) for row in index]))

    async def records(self, count):
        fields = len(isa.PERF_FIELDS)
        logs = [await self.read(Region.PERF, range(count * fields), core) for core in range(self.arch.cores)]
        return np.stack([log.reshape(count, fields) for log in logs], 1)

    async def ends(self):
        while await self.csr("STATUS") & 1:
            pass

    async def csr(self, name):
        return await self.axi.read_dword(CSR[name])


@cocotb.test()
async def port_under_random_pauses(dut):
    """Rows written and read in both directions at once arrive; bad accesses get their code and change nothing."""
    program = Program.load(FOLDER / "network.sdn")
    arch = program.arch
    host = Host(dut, arch)
    await host.start()
    rng = np.random.default_rng(random.getrandbits(32))
    low, high = -(1 << (arch.event_bits - 1)), (1 << (arch.event_bits - 1)) - 1
    act = rng.integers(low, high + 1, (24, arch.lanes)).astype(np.int16)
    state = rng.integers(-(1 << 31), 1 << 31, (24, arch.ppu)).astype(np.int32)

    assert await host.csr("ID") == isa.ID_VALUE
    assert await host.csr("HASH") == arch.hash
    last = arch.cores - 1
    for most in (0.0, 0.5, 0.9):
        host.pause(most)
        await host.write(Region.ACT, act)

        index = rng.permutation(24)
        reading = cocotb.start_soon(host.read(Region.ACT, index))
        await Combine(reading, cocotb.start_soon(host.write(Region.STATE, state, core=last)))
        assert np.array_equal(reading.result(), act[index])
        assert np.array_equal(await host.read(Region.STATE, range(24), last), state)

        act_0 = int(addresses(arch, Region.ACT, 0))
        assert (await host.axi.write(act_0, b"\x00")).resp == AxiResp.SLVERR  # a partial strobe
        assert (await host.axi.write(act_0 + 4, b"\x00" * 4)).resp == AxiResp.SLVERR  # out of order
        assert (await host.axi.write(int(addresses(arch, Region.PERF, 0)), b"\x00" * 4)).resp == AxiResp.SLVERR
        assert (await host.axi.write(int(addresses(arch, Region.IMEM, arch.imem_depth)), b"\x00" * 4)).resp == AxiResp.DECERR
        beyond = int(addresses(arch, Region.STATE, 0, arch.cores))
        assert (await host.axi.read(beyond, 4)).resp == AxiResp.DECERR
        assert (await host.axi.read(int(addresses(arch, Region.WEIGHT, 0)), 4)).resp == AxiResp.SLVERR
        assert (await host.axi.read(12 << isa.REGION_SHIFT, 4)).resp == AxiResp.DECERR
        assert np.array_equal(await host.read(Region.ACT, range(24)), act)
        act, state = act[::-1].copy(), ~state


@cocotb.test()
async def network_runs_through_the_port(dut):
    """Loads, starts, polls and reads as a driver does; outputs and cycles equal those of the models."""
    program = Program.load(FOLDER / "network.sdn")
    vectors = np.load(FOLDER / "vectors.npz")
    host = Host(dut, program.arch)
    await host.start()
    host.pause(0.7)
    records = []
    for name in program.inputs:
        index, words = program.pack(name, vectors[f"in_{name}"])
        await host.write(Region.ACT, words, index)
    for segment in program.segments:
        for (region, core), image in segment_images(segment).items():
            await host.write(region, image, core=core)
        await host.axi.write_dword(CSR["LIMIT"], segment.cycle_limit)
        await host.axi.write_dword(CSR["CTRL"], 1)
        answer = await host.axi.read(int(addresses(program.arch, Region.PERF, 0)), 4)
        assert answer.resp == AxiResp.SLVERR or await host.csr("STATUS") == 2  # windows are refused during the run
        await host.ends()
        perf = await host.records(len(segment.ops) + 1)
        assert await host.csr("STATUS") == 2
        assert await host.csr("CYCLES") == perf[:, 0, : len(isa.Cause)].sum()
        records.append(perf)
    assert np.array_equal(np.concatenate(records), vectors["records"])
    for name in program.outputs:
        index = np.unique(program.addresses(name))
        memory = np.zeros((program.arch.act_depth, program.arch.lanes), np.int16)
        memory[index] = await host.read(Region.ACT, index)
        assert np.array_equal(program.unpack(name, memory), vectors[f"out_{name}"])


@cocotb.test()
async def a_run_is_stopped_and_reset(dut):
    """A limit of 0 behind stray window accesses of both directions stops a run at once; a reset stops one, too, also amid a burst."""
    program = Program.load(FOLDER / "network.sdn")
    host = Host(dut, program.arch)
    await host.start()
    a = Assembler()
    ones = ("KH", "KX", "SPAN", "WORDS", "H", "W", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN")
    a.conv(OH=4095, OW=4095, **dict.fromkeys(ones, 1))
    a.halt()
    await host.write(Region.IMEM, a.imem)
    act = np.arange(8 * program.arch.lanes).reshape(8, -1).astype(np.int16) % 100
    for most in (0.0, 0.7):
        host.pause(most)
        await host.write(Region.ACT, act)
        await host.axi.write_dword(CSR["LIMIT"], 1 << 30)
        await host.axi.write_dword(CSR["CTRL"], 1)
        row = int(addresses(program.arch, Region.ACT, 1))
        stray = [host.axi.init_write(row, b"\x55" * 4) for _ in range(3)] + [host.axi.init_read(row, 4) for _ in range(3)]
        stop = host.axi.init_write(CSR["LIMIT"], b"\x00" * 4)
        await stop.wait()
        assert stop.data.resp == AxiResp.OKAY
        for access in stray:
            await access.wait()
            assert access.data.resp == AxiResp.SLVERR
        await host.ends()
        assert await host.csr("STATUS") == 2 | Trap.CYCLES << 4
        assert await host.csr("CYCLES") < 1000
        assert np.array_equal(await host.read(Region.ACT, range(8)), act)

        await host.axi.write_dword(CSR["LIMIT"], 1 << 30)
        await host.axi.write_dword(CSR["CTRL"], 1)
        burst = [host.axi.init_write(row + 4 * k, b"\x55" * 4) for k in range(3)]
        for _ in range(random.randrange(1, 12)):
            await RisingEdge(dut.clk)
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await RisingEdge(dut.clk)
        del burst  # the manager forgets it, too
        assert await host.csr("STATUS") == await host.csr("LIMIT") == 0
        assert np.array_equal(await host.read(Region.ACT, range(8)), act)
