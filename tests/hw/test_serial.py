# amaranth: UnusedElaboratable=no
"""The serial port: a program loaded, run and read through the two pins, against the models; and what it does with garbage."""

import subprocess

import numpy as np
import pytest

from raw_ops import ARCHS, RawOp, random_images, random_machine
from sordino_hw.gateware.generate import to_verilog
from sordino_hw.gateware.host.serial import SerialPort, SerialTop
from sordino_hw.spec.arch import preset
from sordino_hw.spec.asm import NO_FLAGS, Assembler
from sordino_hw.spec.errors import ArchError, ToolError
from sordino_hw.spec.isa import CSR, ID_VALUE, REGISTERS, Cause, Flag, Mode, Opcode, Region, Trap
from sordino_hw.spec.serial_frame import ANSWER, WRITE, frame
from sordino_sim.board import SerialLink
from sordino_sim.readback import check_images
from sordino_sim.rtl.build import verilator_environment
from sordino_sim.rtl.images import segment_images
from sordino_sim.rtl.machine import Run
from sordino_sim.timing.model import SegmentTiming

ARCH = next(arch for arch in ARCHS if arch.profile == "small").replace(
    name="serial",
    act_depth=32,
    weight_depth=64,
    mask_depth=16,
    param_depth=8,
    state_depth=16,
    imem_depth=256,
    tables=1,
    perf_depth=8,
)
DIVISOR = 8
ONES = dict.fromkeys(REGISTERS, 0) | dict.fromkeys(
    ("OH", "OW", "KH", "KX", "SPAN", "WORDS", "H", "W", "SY", "SX", "DY", "DX", "REPY", "REPX", "SPLIT", "SLICES", "RUN"), 1
)
SQUARE = {
    "OH": 2,
    "OW": 2,
    "KH": 2,
    "SPAN": 2,
    "H": 3,
    "W": 3,
    "A_OY": 3,
    "A_OX": 1,
    "A_KY": 3,
    "W_WORD": 8,
    "W_SPAN": 16,
    "M_SPAN": 2,
}
OPERATIONS = [
    RawOp(Opcode.CONV, NO_FLAGS, Mode.MAC, {**ONES, **SQUARE, "DRAIN": 8, "HI": 127, "O_BASE": 16, "O_OY": 2, "O_OX": 1}),
    RawOp(
        Opcode.VEC,
        NO_FLAGS,
        Mode.MAC2,
        {**ONES, "OW": 4, "W": 4, "A_BASE": 2, "A_OX": 1, "W_BASE": 40, "LO": -128, "HI": 127, "DRAIN": 5, "O_BASE": 24, "O_OX": 1},
    ),
    RawOp(Opcode.CONV, Flag.SINK, Mode.MAC, {**ONES, **SQUARE, "DRAIN": 4}),
]
"""A convolution of 2 x 2, wide weights of four words, and sums that stay in state memory."""


MAIN = r"""
#include "Vtop.h"
#include <cstdio>
#include <string>
// Commands on stdin, a line each: `l LEVEL CYCLES` puts a level on the line; `r COUNT CYCLES` prints so many bytes, or those
// that came within so many cycles; `c` forgets them.
Vtop top;
std::string received;
int listening = 0, octet = 0;
void cycle() {
    top.clk = 0; top.eval(); top.clk = 1; top.eval();
    if (!listening && !top.tx) listening = 1;
    else if (listening && ++listening % DIVISOR == DIVISOR / 2) {
        int bit = listening / DIVISOR;
        if (bit >= 1 && bit <= 8) octet = octet >> 1 | top.tx << 7;
        if (bit == 9) { if (!top.tx) std::puts("no stop bit"); received.push_back(octet); listening = 0; }
    }
}
int main() {
    top.rx = 1;
    char kind; int a, b;
    while (std::scanf(" %c %d %d", &kind, &a, &b) == 3) {
        if (kind == 'l') { top.rx = a; while (b--) cycle(); }
        if (kind == 'c') received.clear();
        if (kind == 'r') {
            while (b-- && int(received.size()) < a) cycle();
            for (int i = 0; i < a && i < int(received.size()); ++i) std::printf("%02x", (unsigned char)received[i]);
            received.erase(0, a);
            std::puts(""); std::fflush(stdout);
        }
    }
}
"""


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    (folder / "top.v").write_text(to_verilog(SerialTop(ARCH, DIVISOR), reset=False))
    (folder / "main.cpp").write_text(MAIN.replace("DIVISOR", str(DIVISOR)))
    flags = ["--top-module", "top", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--x-initial", "fast", "-O3"]
    make = ["-MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_GLOBAL=-O1"]
    command = ["verilator", "--cc", "--exe", "--build", "main.cpp", "top.v", *flags, *make]
    built = subprocess.run(command, cwd=folder, env=verilator_environment(), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    return folder / "obj_dir/Vtop"


class SimulatedLine:
    """The host's end of a line to a simulated `SerialTop`."""

    def __init__(self, simulator):
        self._process = subprocess.Popen([simulator], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _tell(self, *commands: str):
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{command}\n" for command in commands))
        self._process.stdin.flush()

    def levels(self, levels, cycles: int = DIVISOR):
        """Puts levels on the line, each for so many cycles."""
        self._tell(*(f"l {level} {cycles}" for level in levels))

    def write(self, data: bytes, /):
        for octet in data:
            self.levels([0, *(octet >> i & 1 for i in range(8)), 1])

    def read(self, size: int, /) -> bytes:
        self._tell(f"r {size} {12 * ANSWER * DIVISOR}")
        assert self._process.stdout is not None
        return bytes.fromhex(self._process.stdout.readline())

    def send_break(self, duration: float, /):
        self.levels([0] * 15 + [1] * 5)

    def reset_input_buffer(self):
        self._tell("c 0 0")

    def close(self):
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=60) == 0


@pytest.fixture
def line(simulator):
    line = SimulatedLine(simulator)
    yield line
    line.close()


def test_a_program_over_the_line(line, rng):
    """Every memory as the golden machine leaves it, and the records and cycles of the timing model."""
    arch, link = ARCH, SerialLink(ARCH, line)
    segment = random_images(rng, arch, OPERATIONS)
    segment.table = segment.table[:0]
    machine = random_machine(rng, arch)
    for (region, core), image in segment_images(segment).items():
        link.write(region, image, 0, core)
    link.write(Region.ACT, machine.act[0])
    link.write(Region.STATE, machine.state[0, 0])
    np.testing.assert_array_equal(link.read(Region.STATE, arch.state_depth), machine.state[0, 0])

    timing = SegmentTiming(arch, segment, 1)
    machine.run(segment, timing.observe)
    records = timing.records()[0]
    cycles = int(records[:, 0, : len(Cause)].sum())
    seen: list[int] = []
    assert link.run(segment.cycle_limit, seen.append) == Run(Trap.NONE, len(segment.imem) - 1, cycles, len(OPERATIONS))
    np.testing.assert_array_equal(link.records(len(records)), records)
    np.testing.assert_array_equal(link.read(Region.ACT, arch.act_depth), machine.act[0])
    np.testing.assert_array_equal(link.read(Region.STATE, arch.state_depth), machine.state[0, 0])


def lost(link: SerialLink) -> bool:
    return bool(link.csr("STATUS") >> 8 & 1)


def test_garbage_does_nothing(line, rng):
    """Part of a frame, wrong bits on the line and what is not in the map: nothing is written, and a break puts all right."""
    link = SerialLink(ARCH, line)
    act = rng.integers(-128, 128, (ARCH.act_depth, 8)).astype(np.int16)
    link.write(Region.ACT, act)
    assert not lost(link)
    wrong = [
        frame(Region.ACT, ARCH.act_depth, -1 & (1 << 64) - 1),  # a row beyond the memory
        frame(Region.ACT, 1 << 15, -1 & (1 << 64) - 1),
        frame(Region.PERF, 0, 1),  # a memory that is not written
        bytes([WRITE | 13]) + bytes(10),  # a region that does not exist
        frame(Region.CSR, 4, 1),
    ]
    for data in wrong:
        line.write(data)
        assert lost(link), data
        assert not lost(link), "the bit is cleared by being read"
    for data in (bytes([0x40 | Region.ACT.value]) + bytes(10), frame(Region.WEIGHT, 0), frame(Region.ACT, ARCH.act_depth)):
        line.write(data)
        assert len(line.read(ANSWER)) == ANSWER  # whatever is asked has an answer
        assert lost(link), data
    for count in (1, 5, 10):
        line.write(frame(Region.ACT, 3, 0)[:count])
        link.synchronise()
        assert link.csr("ID") == ID_VALUE
    for _ in range(4):
        line.levels(rng.integers(0, 2, 200).tolist() + [1] * 12)
        link.synchronise()
        assert link.csr("ID") == ID_VALUE
    line.levels([0, 1], DIVISOR // 4)  # too short to be a start bit
    kept = link.read(Region.ACT, ARCH.act_depth)
    assert (kept == act).all(1).sum() >= ARCH.act_depth - 4, "noise is not a frame, but for a chance"


ENDLESS = Assembler()
ENDLESS.conv(
    **dict.fromkeys(("OH", "OW"), 4095),
    **dict.fromkeys(("KH", "KX", "SPAN", "WORDS", "H", "W", "REPY", "REPX", "DRAIN", "SPLIT", "SLICES", "RUN"), 1),
)
ENDLESS.halt()
RUN = frame(Region.CSR, CSR["LIMIT"] >> 3, 1 << 30) + frame(Region.CSR, CSR["CTRL"] >> 3, 1)


def stopped(link: SerialLink) -> bool:
    """Whether a machine that ran on was stopped by its limit."""
    status = link.csr("STATUS")
    return status & 3 == 2 and Trap(status >> 4 & 15) is Trap.CYCLES and link.csr("CYCLES") > 0


def test_a_run_is_stopped(line):
    """A machine that runs answers, takes no rows, and stops when its limit becomes 0."""
    link = SerialLink(ARCH, line)
    link.write(Region.IMEM, ENDLESS.imem)
    line.write(RUN)
    assert link.csr("STATUS") & 1
    with pytest.raises(
        ToolError, match=r"^The machine on the line runs, and refused the rows of ACT\. Wait for the end of the run, or"
    ):
        link.write(Region.ACT, np.ones((1, 8), np.int16))
    with pytest.raises(
        ToolError, match=r"^The machine on the line runs, and refused the requests for rows of IMEM\. Wait for the end"
    ):
        link.read(Region.IMEM, 1)
    link.stop()
    assert stopped(link)

    def interrupt(cycles):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.run(1 << 30, interrupt)
    assert stopped(link)
    np.testing.assert_array_equal(link.read(Region.IMEM, len(ENDLESS.imem)), ENDLESS.imem)


class LossyLine(SimulatedLine):
    """A line that loses the byte of number `lose` of those written, or `swallow` bytes of the next answer."""

    lose, swallow = -1, 0

    def write(self, data: bytes, /):
        lost, self.lose = self.lose, self.lose - len(data)
        super().write(data[:lost] + data[lost + 1 :] if 0 <= lost < len(data) else data)

    def read(self, size: int, /) -> bytes:
        data, self.swallow = super().read(size)[self.swallow :], 0
        return data


@pytest.fixture
def lossy(simulator):
    line = LossyLine(simulator)
    yield line
    line.close()


@pytest.mark.parametrize("lose", [*range(11), 15, 21, 22, 30, 33, 40])
def test_a_stop_is_heard_after_a_lost_byte(lossy, lose):
    """Whichever byte is lost before the stop or of it: the machine stops, and the line is in step."""
    link = SerialLink(ARCH, lossy)
    link.write(Region.IMEM, ENDLESS.imem)
    for before in (True, False):
        lossy.write(RUN)
        assert link.csr("STATUS") & 1
        lossy.lose = lose
        if before:  # the port takes what follows as the rest of a frame
            lossy.write(b"".join(frame(Region.ACT, row, row) for row in range(4)))
        link.stop()
        assert lossy.lose < 0 and stopped(link)
        assert link.csr("ID") == ID_VALUE and not lost(link)


def test_a_lost_byte_of_the_rows_is_said(lossy, rng):
    """What was loaded is in doubt, and the error says so; loaded again it is right."""
    link = SerialLink(ARCH, lossy)
    segment = random_images(rng, ARCH, OPERATIONS)
    segment.table = rng.integers(-128, 128, 256).astype(np.int16)
    segment.weight, segment.mask = segment.weight[:, :12], segment.mask[:, :4]
    for lose in (0, 1, 5, 10, 57, 109):
        lossy.lose = lose
        with pytest.raises(
            ToolError, match=r"^The machine on the line (does not answer what|missed some|runs, and refused|answered with \d of 8)"
        ):
            link.write(Region.STATE, np.arange(10, dtype=np.int32)[:, None])
    lossy.swallow = 3
    with pytest.raises(
        ToolError, match=r"^The machine on the line answered with 5 of 8 bytes\. .* a byte was lost, and what was written"
    ):
        link.csr("STATUS")
    link.stop()  # what was shifted may have started a run
    for (region, core), image in segment_images(segment).items():
        link.write(region, image, 0, core)
    check_images(link, segment)
    image = segment.weight[0].copy()
    image[9, 3] ^= 1
    link.write(Region.WEIGHT, image[9:10], 9)
    with pytest.raises(
        ToolError, match=r"^Row 9 of WEIGHT of core 0 is not what was written; 1 of 12 rows differ\. Load the program again\.$"
    ):
        check_images(link, segment)


class DeafLine(LossyLine):
    """A line on which nothing arrives any more, once it is `deaf`."""

    deaf = False

    def write(self, data: bytes, /):
        if not self.deaf:
            super().write(data)


def test_a_stop_that_is_not_heard_is_said(simulator):
    line = DeafLine(simulator)
    link = SerialLink(ARCH, line)
    line.deaf = True
    with pytest.raises(
        ToolError, match=r"^The machine on the line does not confirm that it stopped, after 3 attempts\. Reset it, or"
    ):
        link.stop()
    line.close()


def test_refusals(line):
    with pytest.raises(
        ArchError, match=r"^architecture 'ulx3s-85f': a serial port needs profile='small' and rows of at most 64 bits, not"
    ):
        SerialPort(preset("ulx3s-85f"), 12)
    with pytest.raises(ValueError, match=r"^a bit must take at least 8 cycles, not 4$"):
        SerialPort(ARCH, 4)
    with pytest.raises(ArchError, match=r"^The machine on the line identifies itself as 534f5244 [0-9a-f]{8}, not as 534f5244"):
        SerialLink(ARCH.replace(act_depth=64), line)
    with pytest.raises(ArchError, match=r"^rows of ACT beyond its 32, or of core 0, which serial does not have$"):
        SerialLink(ARCH, line).read(Region.ACT, 33)


class SilentLine:
    def write(self, data: bytes, /): ...

    def read(self, size: int, /) -> bytes:
        return b""

    def send_break(self, duration: float, /): ...

    def reset_input_buffer(self): ...


def test_a_silent_line_is_reported():
    with pytest.raises(
        ToolError,
        match=r"^The machine on the line answered with 0 of 8 bytes\. Is its bitstream loaded, and the speed right\? If so, a byte",
    ):
        SerialLink(ARCH, SilentLine())


SMALL = "profile='small' needs cores=1, lanes=8, wide_cycles=2, in_flight=1, word_fifo=2, segment_fifo=1, row_fifo=1, not "


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cores": 2}, f"{SMALL}cores=2$"),
        ({"wide_cycles": 1}, f"{SMALL}wide_cycles=1$"),
        ({"word_fifo": 8, "row_fifo": 2}, f"{SMALL}word_fifo=8, row_fifo=2$"),
        ({"profile": "tiny"}, "profile must be 'pipelined' or 'small', not profile='tiny'$"),
        ({"profile": 1}, "profile must be 'pipelined' or 'small', not profile=1$"),
        ({"profile": "pipelined"}, "segment_fifo must be from 2 to 64, not segment_fifo=1$"),
    ],
)
def test_what_a_small_core_is(changes, message):
    with pytest.raises(ArchError, match=f"^architecture 'custom': {message}"):
        ARCH.replace(**changes)
