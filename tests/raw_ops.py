"""Random raw operations on small clusters, and a plain-Python interpreter of them (no NumPy in the arithmetic)."""

from dataclasses import dataclass

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import NO_FLAGS, Assembler
from sordino_hw.spec.isa import Flag, Mode, Opcode
from sordino_hw.spec.program import Op, Segment
from sordino_sim.golden.machine import Machine

ARCHS = [
    ArchConfig(
        name=name,
        cores=cores,
        ports=ports,
        lanes=lanes,
        ppu=ppu,
        event_bits=event_bits,
        mantissa_bits=mantissa_bits,
        act_depth=512,
        weight_depth=2048,
        mask_depth=128,
        param_depth=16,
        state_depth=512,
        tables=2,
        wide_cycles=wide_cycles,
        products=products,
    )
    for name, cores, ports, lanes, ppu, event_bits, mantissa_bits, wide_cycles, products in (
        ("a", 1, 1, 8, 2, 9, 4, 2, False),
        ("b", 4, 2, 8, 8, 8, 3, 1, True),
        ("c", 2, 1, 16, 4, 9, 8, 1, False),
    )
]
ARCHS.append(
    ARCHS[0].replace(
        name="d", ppu=1, event_bits=8, in_flight=1, occ_width=8, row_fifo=2, segment_fifo=2, state_depth=1024, products=True
    )
)
ARCHS.append(ARCHS[-1].replace(name="e", profile="small", word_fifo=2, segment_fifo=1, row_fifo=1, mask_depth=1024))


@dataclass
class RawOp:
    opcode: Opcode
    flags: Flag
    mode: Mode
    regs: dict[str, int]


def random_images(rng: np.random.Generator, arch: ArchConfig, ops: list[RawOp]) -> Segment:
    """A segment that runs `ops`, with random weights, masks, parameters and tables that fill their memories.

    Cores have the same images where they stand for the same slice of an operation, and others elsewhere.
    A WAIT stands where the state that an operation starts from may come from the one before, where it stores to words
    that one in flight does (groups may be operations apart, and store in any order), and at random elsewhere.
    """
    a = Assembler()
    unstored: set[int] = set()
    for i, op in enumerate(ops):
        stores = output_addresses(op)
        if i and (Flag.SOURCE in op.flags or stores & unstored or rng.random() < 0.3):
            a.wait()
            unstored = set()
        unstored |= stores
        if op.opcode is Opcode.CONV:
            a.conv(op.flags, **op.regs)
        else:
            a.vec(op.mode, op.flags, **op.regs)
    a.halt()
    model = model_cores(arch, ops)
    rows, masks, params = (
        (arch.cores, depth, width)
        for depth, width in (
            (arch.weight_depth, arch.lanes),
            (arch.mask_depth, arch.lanes),
            (arch.param_depth, arch.ppu),
        )
    )
    low, high = arch.act_range(True)
    m = arch.mantissa_bits
    mantissa = rng.integers(1 << (m - 1), 1 << m, params) * (rng.random(params) < 0.9)
    segment = Segment(
        imem=a.imem,
        weight=rng.choice([rng.integers(-128, 128, rows), rng.choice([-128, 127], rows)]).astype(np.int8),
        mask=rng.random(masks) < rng.choice([0.3, 1.0]),
        bias=rng.integers(-(10 ** rng.integers(1, 10)), 10 ** rng.integers(1, 10), params)
        .clip(-(1 << 31), (1 << 31) - 1)
        .astype(np.int32),
        mantissa=mantissa.astype(np.int32),
        shift=rng.integers(0, rng.choice([4, 20, 32]), params).astype(np.int32),
        threshold=rng.integers(0, 8, params).astype(np.int32),
        table=rng.integers(low, high + 1, 256 * arch.tables).astype(np.int16),
        ops=[Op(0, 1)] * len(ops),
        cycle_limit=1 << 20,
    )
    for name in ("weight", "mask", "bias", "mantissa", "shift", "threshold"):
        setattr(segment, name, getattr(segment, name)[model])
    return segment


def output_addresses(op: RawOp) -> set[int]:
    """The activation words that an operation stores."""
    r = op.regs
    if Flag.SINK in op.flags:
        return set()
    places = (r["O_BASE"] + oy * r["O_OY"] + ox * r["O_OX"] for oy in range(r["OH"]) for ox in range(r["OW"]))
    return {place + k for place in places for k in range(r["SLICES"])}


def model_cores(arch: ArchConfig, ops: list[RawOp]) -> list[int]:
    """For each core the least one that must have its images, because they stand for the same slice of an operation."""
    model = list(range(arch.cores))
    for _ in model:
        for op in ops:
            for c in range(op.regs["SPLIT"] * op.regs["SLICES"]):
                first = c - c % op.regs["SPLIT"]
                model[c] = model[first] = min(model[c], model[first])
    return [model[c] for c in model]


def random_op(rng: np.random.Generator, arch: ArchConfig) -> RawOp:
    """An operation that traps nowhere: reads words 0..255 of activation memory, writes the others."""

    def pick(low, high):
        return int(rng.integers(low, high + 1))

    conv = bool(rng.random() < 0.5)
    mode = Mode.MAC if conv else Mode(pick(0, 3 if arch.products else 2))
    flags = Flag.RESIDUAL if mode is Mode.PRODUCT else NO_FLAGS
    for flag in Flag:
        if rng.random() < 0.3 and not (flag is Flag.RESIDUAL and mode is Mode.MAX) and not (flag is Flag.WINDOW and conv):
            flags |= flag
    window = Flag.WINDOW in flags
    split = int(rng.choice([n for n in (1, 2, 4, 8) if n <= arch.cores]))
    slices = pick(1, arch.cores // split)
    run = 1 if flags & (Flag.SOURCE | Flag.SINK) else pick(1, 8)
    most = 9 if slices == 1 else 5
    height, width, pitch = pick(1, 6), pick(1, 6), pick(1, 3)
    row = width * pitch + pick(0, 2)
    words = 1 if window else pick(1, min(2, pitch))
    kh, kw, dy, dx, sy, sx = (pick(1, 3) for _ in range(6))
    top, left, repy, repx = pick(0, 3), pick(0, 3), pick(1, 2), pick(1, 2)
    if window:
        dx, repx = 1, 1
    if mode is Mode.PRODUCT:
        kh, kw, words = 1, 1, 1
    oh, ow = (max(1, min(most, r * ((size + pad - d * (k - 1)) // s + pick(0, 2)))) for size, pad, d, k, s, r in (
        (height, top, dy, kh, sy, repy), (width, left, dx, kw, sx, repx)))  # fmt: skip
    whole = not window and dx == 1 and words == pitch and rng.random() < 0.8
    kx, span = (1, kw) if whole else (kw, 1)
    w_word = arch.lanes if conv else 2 if mode is Mode.MAC2 else 1
    drain = pick(1, arch.chunks)
    lo, hi = arch.act_range(bool(rng.random() < 0.5))
    if Flag.TABLE in flags:
        lo, hi = max(lo, -128), min(hi, 127)
    base, step = pick(0, 255 - height * row), pick(slices, slices + 1)
    o_oy = ow * step + pick(0, 2)
    regs = {
        **dict(OH=oh, OW=ow, KH=kh, KX=kx, SPAN=span, WORDS=words, H=height, W=width, IY0=-top, IX0=-left),
        **dict(SY=sy, SX=sx, DY=dy, DX=dx, REPY=repy, REPX=repx),
        **dict(A_BASE=base - top * row - left * pitch, A_OY=sy * row, A_OX=sx * pitch, A_KY=dy * row, A_KX=dx * pitch),
        **dict(W_SPAN=span * words * w_word, W_WORD=w_word, M_SPAN=span * words),
        **dict(W_BASE=pick(0, 200), M_BASE=pick(0, 20)),
        **dict(R_BASE=pick(0, 50), R_OY=pick(0, 9), R_OX=pick(0, 9), R_W=pick(0, arch.weight_depth - 2)),
        **dict(O_BASE=pick(256, arch.act_depth - oh * o_oy), O_OY=o_oy, O_OX=step),
        **dict(P_BASE=pick(0, arch.param_depth - drain), S_BASE=pick(0, arch.state_depth - oh * ow * drain)),
        **dict(DRAIN=drain, LO=lo, HI=hi, TABLE=pick(0, arch.tables - 1), SPLIT=split, SLICES=slices, RUN=run),
    }
    return RawOp(Opcode.CONV if conv else Opcode.VEC, flags, mode, regs)


def random_activations(rng: np.random.Generator, arch: ArchConfig, batch: int) -> np.ndarray:
    """int16 [batch, act_depth, lanes] of some density, some words empty."""
    low, high = -(1 << (arch.event_bits - 1)), (1 << (arch.event_bits - 1)) - 1
    values = rng.integers(low, high + 1, (batch, arch.act_depth, arch.lanes))
    values = np.where(rng.random() < 0.3, rng.choice([low, high], values.shape), values)
    values *= rng.random(values.shape) < rng.choice([0.05, 0.5, 1.0])
    return (values * (rng.random((*values.shape[:2], 1)) < 0.7)).astype(np.int16)


# -- the interpreter -----------------------------------------------------------------------------------------------


def signed(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def requantise(acc: int, bias: int, mantissa: int, shift: int, arch: ArchConfig) -> int:
    def round_half_up(numerator: int, n: int) -> int:
        return (2 * numerator + (1 << n)) // (1 << (n + 1))

    t = round_half_up(signed(acc + bias, 32) * 512, shift)
    top = (1 << (arch.event_bits + 9 - (arch.mantissa_bits - 1))) - 1
    t = max(-top - 1, min(top, t))
    return round_half_up(t * mantissa, 9)


def interpret(op: RawOp, arch: ArchConfig, s: Segment, act: list, state: list) -> tuple[int, int]:
    """Executes one operation on one image: act[address][lane], state[core][row][channel], changed in place.

    Returns (events, events with a non-zero activation).
    """
    r = op.regs
    stores: list[tuple[int, list[int]]] = []
    events = nonzero = 0
    for i in range(r["SLICES"]):
        counts = _interpret_slice(op, arch, s, act, state, i, stores)
        events, nonzero = events + counts[0], nonzero + counts[1]
    for address, out in stores:
        act[address] = out
    return events, nonzero


def _interpret_slice(op: RawOp, arch: ArchConfig, s: Segment, act: list, state: list, index: int, stores: list):
    """As `interpret`, for one slice; what it stores is appended to `stores`."""
    r, lanes = op.regs, range(arch.lanes)
    first = index * r["SPLIT"]
    weight, mask = s.weight[first].tolist(), s.mask[first]
    events = nonzero = 0
    for oy in range(r["OH"]):
        for ox in range(r["OW"]):
            maximum = op.mode is Mode.MAX
            acc = [None if maximum else 0 for _ in lanes]
            qy, qx = oy // r["REPY"], ox // r["REPX"]
            for ky in range(r["KH"]):
                for kx in range(r["KX"]):
                    for p in range(r["SPAN"]):
                        iy = r["IY0"] + qy * r["SY"] + ky * r["DY"]
                        ix = r["IX0"] + qx * r["SX"] + kx * r["DX"] + p
                        if not (0 <= iy < r["H"] and 0 <= ix < r["W"]):
                            continue
                        for j in range(r["WORDS"]):
                            a = r["A_BASE"] + qy * r["A_OY"] + qx * r["A_OX"] + ky * r["A_KY"] + kx * r["A_KX"]
                            word = act[(a + p * r["WORDS"] + j) % (2 * arch.act_depth)]
                            n, q = ky * r["KX"] + kx, p * r["WORDS"] + j
                            row = r["W_BASE"] + n * r["W_SPAN"] + q * r["W_WORD"]
                            for lane in lanes:
                                if op.opcode is Opcode.CONV and not mask[r["M_BASE"] + n * r["M_SPAN"] + q, lane]:
                                    continue
                                events += Flag.DENSE in op.flags or word[lane] != 0
                                nonzero += word[lane] != 0
                                if op.opcode is Opcode.CONV:
                                    for i in lanes:
                                        acc[i] += word[lane] * weight[row + lane][i]
                                elif op.mode is Mode.MAC:
                                    acc[lane] += word[lane] * weight[row][lane]
                                elif op.mode is Mode.MAC2:
                                    acc[lane] += word[lane] * (weight[row][lane] % 128 + 128 * weight[row + 1][lane])
                                elif op.mode is Mode.PRODUCT:
                                    acc[lane] = word[lane]
                                else:
                                    acc[lane] = word[lane] if acc[lane] is None else max(acc[lane], word[lane])
            acc = [x or 0 for x in acc]
            if Flag.RESIDUAL in op.flags:
                word = act[r["R_BASE"] + oy * r["R_OY"] + ox * r["R_OX"] + index]
                low, high = weight[r["R_W"]], weight[r["R_W"] + 1]
                if op.mode is Mode.PRODUCT:
                    acc = [x * v for x, v in zip(acc, word, strict=True)]
                else:
                    acc = [x + v * (a % 128 + 128 * b) for x, v, a, b in zip(acc, word, low, high, strict=True)]
            turn, group = divmod(oy * r["OW"] + ox, r["SPLIT"])
            rows = state[first + group]
            out = [0] * arch.lanes
            for i in range(r["DRAIN"] * arch.ppu):
                c, k = divmod(i, arch.ppu)
                place = r["S_BASE"] + turn * r["DRAIN"] + c
                v = signed(acc[i] + (rows[place][k] if Flag.SOURCE in op.flags else 0), 32)
                if Flag.SINK in op.flags:
                    rows[place][k] = v
                    continue
                p = first, r["P_BASE"] + c, k
                y = requantise(v, int(s.bias[p]), int(s.mantissa[p]), int(s.shift[p]), arch)
                y = min(max(r["LO"], y), r["HI"])
                if Flag.TABLE in op.flags:
                    y = int(s.table[256 * r["TABLE"] + y + 128])
                out[i] = 0 if abs(y) < s.threshold[p] else y
            if Flag.SINK not in op.flags:
                stores.append((r["O_BASE"] + oy * r["O_OY"] + ox * r["O_OX"] + index, out))
    return events, nonzero


def random_machine(rng: np.random.Generator, arch: ArchConfig) -> Machine:
    """A golden machine of one image with random activations and state."""
    machine = Machine(arch)
    machine.store(np.arange(arch.act_depth), random_activations(rng, arch, 1))
    machine.state[:] = rng.integers(-(1 << 31), 1 << 31, machine.state.shape)
    return machine
