"""The host port: registers, windows, errors and the rules of AXI4-Lite."""

import random

import pytest
from axi_bench import address, row_of, simulate

from sordino_hw.gateware.host.axi import Resp
from sordino_hw.spec import isa
from sordino_hw.spec.address_map import READABLE, WRITABLE, check_address_space
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ArchError
from sordino_hw.spec.isa import CSR, PER_CORE, Region, region_bits, region_depth, region_stride, row_pieces
from sordino_hw.spec.latencies import Latencies

ARCH = ArchConfig(
    cores=2,
    lanes=16,
    ppu=4,
    act_depth=64,
    weight_depth=48,
    mask_depth=16,
    param_depth=8,
    state_depth=6,
    tables=1,
    imem_depth=32,
    perf_depth=8,
)
OK, SLVERR, DECERR = Resp.OKAY, Resp.SLVERR, Resp.DECERR
MEMORIES = [r for r in Region if r is not Region.CSR]


async def write_row(ctx, manager, region, row, value):
    for i in range(row_pieces(region_bits(ARCH, region))):
        assert await manager.write(ctx, address(region, ARCH, row, i), value >> 32 * i & 0xFFFFFFFF) == OK


async def settle(ctx):
    """A row's last piece is answered before the row has arrived."""
    await ctx.tick().repeat(2 + max(row_pieces(region_bits(ARCH, r)) for r in WRITABLE))


async def run_ends(ctx, manager):
    while (await manager.read(ctx, CSR["STATUS"]))[0] & 1:
        pass


async def read_row(ctx, manager, region, row):
    value = 0
    for i in range(row_pieces(region_bits(ARCH, region))):
        data, resp = await manager.read(ctx, address(region, ARCH, row, i))
        assert resp == OK
        value |= data << 32 * i
    return value


@pytest.mark.parametrize("pause", [0.0, 0.6])
def test_rows(pause):
    """Rows of every writable memory arrive whole; rows of every readable one come back."""
    rng = random.Random(1)
    cores = {r: range(ARCH.cores) if r in PER_CORE else range(1) for r in WRITABLE}
    rows = {
        (r, row_of(r, ARCH, core, row)): rng.getrandbits(region_bits(ARCH, r))
        for r in WRITABLE
        for core in cores[r]
        for row in (0, 3, region_depth(ARCH, r) - 1)
    }
    perf = row_of(Region.PERF, ARCH, 1, 2)

    async def bench(ctx, manager, machine):
        machine.memory[Region.PERF, perf] = rng.getrandbits(region_bits(ARCH, Region.PERF))
        for (region, row), value in rows.items():
            await write_row(ctx, manager, region, row, value)
        await settle(ctx)
        assert {**rows, (Region.PERF, perf): machine.memory[Region.PERF, perf]} == machine.memory
        for (region, row), value in machine.memory.items():
            if region in READABLE:
                assert await read_row(ctx, manager, region, row) == value

    simulate(ARCH, bench, pause=pause)


def test_registers():
    async def bench(ctx, manager, machine):
        async def csr(name):
            data, resp = await manager.read(ctx, CSR[name])
            assert resp == OK
            return data

        assert await csr("ID") == isa.ID_VALUE
        assert await csr("HASH") == ARCH.hash
        assert await csr("LIMIT") == 0
        assert await csr("STATUS") == 0
        assert await manager.write(ctx, CSR["LIMIT"], 12345) == OK
        assert await csr("LIMIT") == 12345
        assert await manager.write(ctx, CSR["CTRL"], 2) == OK
        assert machine.starts == 0
        assert await manager.write(ctx, CSR["CTRL"], 1) == OK
        assert await csr("STATUS") & 3 == 1
        assert await manager.write(ctx, CSR["CTRL"], 1) == OK
        while await csr("STATUS") & 1:
            pass
        assert await csr("STATUS") == 2 | isa.Trap.WAIT.value << 4
        assert (await csr("PC"), await csr("CYCLES"), await csr("OPS"), await csr("CTRL")) == (17, machine.duration, 3, 0)
        assert (machine.starts, machine.limit) == (1, 12345)

    simulate(ARCH, bench)


def test_windows_are_refused_while_running():
    """Nothing waits for the end of a run: windows are refused at once, registers answer, in both directions."""

    async def bench(ctx, manager, machine):
        machine.duration = 400
        machine.memory[Region.STATE, 1] = 99
        await manager.write(ctx, CSR["CTRL"], 1)
        assert await manager.read(ctx, address(Region.STATE, ARCH, 1)) == (0, SLVERR)
        for i in range(row_pieces(region_bits(ARCH, Region.STATE))):
            assert await manager.write(ctx, address(Region.STATE, ARCH, 1, i), 7) == SLVERR
        assert await manager.write(ctx, address(Region.STATE, ARCH, ARCH.state_depth), 0) == DECERR
        assert await manager.read(ctx, address(Region.ACT, ARCH, ARCH.act_depth)) == (0, DECERR)
        assert await manager.write(ctx, CSR["LIMIT"], 0x1234) == OK
        assert await manager.read(ctx, CSR["LIMIT"]) == (0x1234, OK)
        assert await manager.read(ctx, CSR["STATUS"]) == (1, OK)
        await run_ends(ctx, manager)
        assert await manager.read(ctx, address(Region.STATE, ARCH, 1)) == (99, OK)
        assert (machine.memory, machine.fetches) == ({(Region.STATE, 1): 99}, 1)

    simulate(ARCH, bench)


@pytest.mark.parametrize("stray", WRITABLE)
def test_a_stop_is_heard_behind_stray_accesses(stray):
    """A limit of 0 that is queued behind window accesses of both directions arrives within a few cycles of the run."""

    async def bench(ctx, manager, machine):
        machine.duration = 10_000
        await manager.write(ctx, CSR["CTRL"], 1)
        await manager.write(ctx, CSR["LIMIT"], 5000)
        for _ in range(4):
            manager.queues["aw"].append((address(stray, ARCH, 1),))
            manager.queues["w"].append((5, 15))
            manager.queues["ar"].append((address(stray, ARCH, 1),))
        manager.queues["aw"].append((CSR["LIMIT"],))
        manager.queues["w"].append((0, 15))
        await ctx.tick().repeat(60)
        assert ctx.get(machine.dut.control.limit) == 0 and ctx.get(machine.dut.control.running)

    simulate(ARCH, bench)


@pytest.mark.parametrize("direction", ["aw", "ar"])
@pytest.mark.parametrize("gap", range(6))
def test_window_access_right_behind_a_start(direction, gap):
    """However close it comes to the start, an access is done before the run or refused (the bench checks)."""

    async def bench(ctx, manager, machine):
        machine.memory[Region.STATE, 1] = 9
        manager.queues["aw"].append((CSR["CTRL"],))
        manager.queues["w"].append((1, 15))
        for _ in range(gap):
            await ctx.tick()
        manager.queues[direction].append((address(Region.STATE, ARCH, 1),))
        if direction == "aw":
            manager.queues["w"].append((5, 15))
        assert await manager.take(ctx, "b") == (OK,)
        if direction == "aw":
            assert await manager.take(ctx, "b") == (SLVERR,)
        else:
            assert await manager.take(ctx, "r") in ((9, OK), (0, SLVERR))
        assert machine.starts == 1 and machine.memory == {(Region.STATE, 1): 9}

    simulate(ARCH, bench)


def test_reads_are_not_stale():
    """Whatever was read before, a read shows what a write or a run has left."""

    async def bench(ctx, manager, machine):
        machine.memory[Region.ACT, 4] = 7 | 8 << 32
        assert await read_row(ctx, manager, Region.ACT, 4) == 7 | 8 << 32
        await write_row(ctx, manager, Region.ACT, 4, 9)
        assert await read_row(ctx, manager, Region.ACT, 4) == 9
        await manager.write(ctx, CSR["CTRL"], 1)
        machine.memory[Region.ACT, 4] = 10
        await run_ends(ctx, manager)
        assert await read_row(ctx, manager, Region.ACT, 4) == 10
        machine.memory[Region.STATE, 4] = 11
        assert await read_row(ctx, manager, Region.STATE, 4) == 11

    simulate(ARCH, bench)


def test_a_run_forgets_the_row_that_was_begun():
    """A run clears what was written of a row: it must be begun again."""

    async def bench(ctx, manager, machine):
        assert await manager.write(ctx, address(Region.STATE, ARCH, 2), 7) == OK
        await manager.write(ctx, CSR["CTRL"], 1)
        await run_ends(ctx, manager)
        assert await manager.write(ctx, address(Region.STATE, ARCH, 2, 1), 8) == SLVERR
        await write_row(ctx, manager, Region.STATE, 2, 9)
        await settle(ctx)
        assert machine.starts == 1 and machine.memory == {(Region.STATE, 2): 9}

    simulate(ARCH, bench)


@pytest.mark.parametrize("half", ["aw", "w"])
def test_a_reset_forgets_what_was_begun(half):
    """Half a row, half a write and the limit: none is there after a reset of one cycle."""

    async def bench(ctx, manager, machine):
        assert await manager.write(ctx, CSR["LIMIT"], 77) == OK
        assert await manager.write(ctx, address(Region.STATE, ARCH, 2), 7) == OK
        manager.queues[half].append((address(Region.STATE, ARCH, 2, 1),) if half == "aw" else (5, 15))
        await ctx.tick().repeat(4)
        ctx.set(machine.reset, 1)
        await ctx.tick()
        ctx.set(machine.reset, 0)
        assert await manager.read(ctx, CSR["LIMIT"]) == (0, OK)
        assert await manager.write(ctx, address(Region.STATE, ARCH, 2, 1), 8) == SLVERR
        await write_row(ctx, manager, Region.STATE, 2, 9)
        await settle(ctx)
        assert machine.memory == {(Region.STATE, 2): 9}

    simulate(ARCH, bench)


def test_throughput():
    """Queued writes take 3 cycles each, queued reads a fetch more (and a few to fill)."""

    async def bench(ctx, manager, machine):
        count = region_depth(ARCH, Region.IMEM)
        for i in range(count):
            manager.queues["aw"].append((address(Region.IMEM, ARCH, i),))
            manager.queues["w"].append((i, 15))
        cycles = 0
        while len(manager.queues["b"]) < count:
            await ctx.tick()
            cycles += 1
        assert cycles <= 3 * count + 6
        for _ in range(50):
            manager.queues["ar"].append((address(Region.STATE, ARCH, 1, 3),))
        cycles = 0
        while len(manager.queues["r"]) < 50:
            await ctx.tick()
            cycles += 1
        assert cycles <= (3 + Latencies(ARCH).window + 3) * 50 + 6

    simulate(ARCH, bench)


@pytest.mark.parametrize("seed", range(3))
def test_both_directions_at_once(seed):
    """Queued reads and writes of different memories do not disturb each other, at any pace of the five channels."""
    rng = random.Random(seed)
    rows = [rng.getrandbits(region_bits(ARCH, Region.WEIGHT)) for _ in range(20)]

    async def bench(ctx, manager, machine):
        expected = []
        for row in range(4):
            machine.memory[Region.STATE, row] = rng.getrandbits(region_bits(ARCH, Region.STATE))
        for row, value in enumerate(rows):
            for i in range(4):
                manager.queues["aw"].append((address(Region.WEIGHT, ARCH, row, i),))
                manager.queues["w"].append((value >> 32 * i & 0xFFFFFFFF, 15))
        for _ in range(40):
            row, i = rng.randrange(4), rng.randrange(4)
            manager.queues["ar"].append((address(Region.STATE, ARCH, row, i),))
            expected.append((machine.memory[Region.STATE, row] >> 32 * i & 0xFFFFFFFF, OK))
        assert [await manager.take(ctx, "r") for _ in range(40)] == expected
        assert [await manager.take(ctx, "b") for _ in range(80)] == [(OK,)] * 80
        await settle(ctx)
        assert [machine.memory[Region.WEIGHT, row] for row in range(20)] == rows

    simulate(ARCH, bench, pause=seed * 0.4, seed=seed)


def test_valid_does_not_wait_for_ready():
    """Responses come, and stay, while the manager takes none; requests behind them are taken up to one."""

    async def bench(ctx, manager, machine):
        manager.held = {"b", "r"}
        for i in range(3):
            manager.queues["aw"].append((address(Region.IMEM, ARCH, i),))
            manager.queues["w"].append((i, 15))
            manager.queues["ar"].append((CSR["ID"],))
        for _ in range(20):
            await ctx.tick()
        assert ctx.get(manager.bus.bvalid) and ctx.get(manager.bus.rvalid)
        assert list(machine.memory) == [(Region.IMEM, 0)]
        assert not ctx.get(manager.bus.awready) and not ctx.get(manager.bus.wready) and not ctx.get(manager.bus.arready)
        manager.held = set()
        assert [await manager.take(ctx, "b") for _ in range(3)] == [(OK,)] * 3
        assert [await manager.take(ctx, "r") for _ in range(3)] == [(isa.ID_VALUE, OK)] * 3
        await settle(ctx)
        assert machine.memory == {(Region.IMEM, i): i for i in range(3)}

    simulate(ARCH, bench)


BAD_WRITES = [
    (address(Region.IMEM, ARCH, 0) + 1, 15, SLVERR),
    (address(Region.IMEM, ARCH, 0) + 2, 15, SLVERR),
    (address(Region.IMEM, ARCH, 0), 7, SLVERR),
    (address(Region.IMEM, ARCH, 0), 0, SLVERR),
    (address(Region.IMEM, ARCH, ARCH.imem_depth), 15, DECERR),
    (address(Region.WEIGHT, ARCH, 0, 1), 15, SLVERR),  # no piece 0 before it
    (address(Region.ACT, ARCH, 0, row_pieces(region_bits(ARCH, Region.ACT))), 15, SLVERR),
    (address(Region.PERF, ARCH, 0), 15, SLVERR),
    (address(Region.TABLE, ARCH, 256 * ARCH.tables), 15, DECERR),
    (address(Region.STATE, ARCH, ARCH.state_depth), 15, DECERR),  # between two cores
    (address(Region.STATE, ARCH, row_of(Region.STATE, ARCH, 1, ARCH.state_depth)), 15, DECERR),
    *((address(r, ARCH, ARCH.cores * region_stride(ARCH, r)), 15, DECERR) for r in PER_CORE),
    (9 << isa.REGION_SHIFT, 15, DECERR),
    (15 << isa.REGION_SHIFT, 15, DECERR),
    (CSR["ID"], 15, SLVERR),
    (CSR["STATUS"], 15, SLVERR),
    (CSR["CTRL"], 1, SLVERR),
    (CSR["CTRL"] + 1, 15, SLVERR),
    (CSR["LIMIT"], 3, SLVERR),
    (0x20, 15, DECERR),
    (0x100, 15, DECERR),
]
BAD_READS = [
    (address(Region.ACT, ARCH, 0) + 3, SLVERR),
    (address(Region.ACT, ARCH, 0, row_pieces(region_bits(ARCH, Region.ACT))), SLVERR),
    (address(Region.ACT, ARCH, ARCH.act_depth), DECERR),
    (address(Region.STATE, ARCH, ARCH.state_depth + 1), DECERR),
    (address(Region.PERF, ARCH, ARCH.cores * ARCH.perf_depth * len(isa.PERF_FIELDS)), DECERR),
    *((address(r, ARCH, 0), SLVERR) for r in MEMORIES if r not in READABLE),
    (CSR["PC"] + 2, SLVERR),
    (0x20, DECERR),
    (11 << isa.REGION_SHIFT, DECERR),
]


def test_errors():
    """Every bad access is answered with its code; nothing is written, started or fetched."""

    async def bench(ctx, manager, machine):
        for at, strobe, expected in BAD_WRITES:
            assert await manager.write(ctx, at, 0xFFFFFFFF, strobe) == expected, hex(at)
        for at, expected in BAD_READS:
            assert await manager.read(ctx, at) == (0, expected), hex(at)
        assert (await manager.read(ctx, CSR["LIMIT"])) == (0, OK)
        assert (machine.memory, machine.starts, machine.fetches) == ({}, 0, 0)

    simulate(ARCH, bench)


@pytest.mark.parametrize("seed", range(4))
def test_random_writes(seed):
    """Random accesses, near misses of rows among them, against a plain model of the rules."""
    rng = random.Random(seed)

    async def bench(ctx, manager, machine):
        model, stage, expected, open_row = {}, [], None, False
        for _ in range(400):
            if open_row and rng.random() < 0.9:
                at = expected
            else:
                region = rng.choice(WRITABLE)
                at = address(region, ARCH, rng.randrange(3), 0 if rng.random() < 0.8 else rng.randrange(4))
            strobe = 15 if rng.random() < 0.97 else rng.randrange(15)
            data = rng.getrandbits(32)

            region = Region(at >> isa.REGION_SHIFT)
            bits = region_bits(ARCH, region)
            row, piece = divmod((at & 0xFFFFFF) // 4, isa.row_bytes(bits) // 4)
            good = strobe == 15 and piece < row_pieces(bits) and (piece == 0 or at == expected)
            assert await manager.write(ctx, at, data, strobe) == (OK if good else SLVERR)
            if good:
                stage = [*stage[:piece], data]
                expected, open_row = at + 4, piece < row_pieces(bits) - 1
                if not open_row:
                    value = sum(d << 32 * i for i, d in enumerate(stage))
                    model[region, row] = value & ((1 << bits) - 1)
            if rng.random() < 0.1:
                await manager.read(ctx, CSR["ID"])
        await settle(ctx)
        assert machine.memory == model and len(model) > 5

    simulate(ARCH, bench, pause=rng.choice([0, 0.3, 0.7]), seed=seed)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            ArchConfig(param_depth=1 << 19),
            "^architecture 'custom': the PARAM memory takes 33554432 bytes .* and a region has 16777216: "
            "make param_depth at most 262144$",
        ),
        (
            ArchConfig(cores=4, param_depth=(1 << 16) + 1),
            "^architecture 'custom': the PARAM memories of 4 cores take 33554432 bytes .* make param_depth at most 65536$",
        ),
        (ArchConfig(cores=8, perf_depth=1 << 17), "^.* PERF memories of 8 cores take .* make perf_depth at most 65536$"),
    ],
)
def test_too_large(arch, message):
    with pytest.raises(ArchError, match=message):
        check_address_space(arch)
