"""Verilog export: the ports that boards, cocotb and the native simulator rely on, and the command line."""

import json
import re
import subprocess
import sys

import pytest

from sordino_hw.gateware.generate import main, top_verilog
from sordino_hw.spec.arch import ArchConfig

ARCH = ArchConfig(
    lanes=8, ppu=2, act_depth=64, weight_depth=32, mask_depth=8, param_depth=8, state_depth=8, tables=1, imem_depth=16
)
AXI = {
    *("awaddr", "awprot", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid", "bready"),
    *("araddr", "arprot", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready"),
}


def ports(text: str) -> set[str]:
    """Port names of the module `top`."""
    (found,) = re.findall(r"^module top\((.*?)\);", text, re.M | re.S)
    return {name.strip() for name in found.split(",")}


@pytest.mark.parametrize("reset", [True, False])
def test_ports(reset):
    assert ports(top_verilog(ARCH, reset)) == {f"s_axil_{name}" for name in AXI} | {"clk"} | ({"rst"} if reset else set())


def test_the_simulators_verilog(capsys):
    """The same ports; no register and no memory has an initial value; the reset passes a register."""
    assert main(["--arch", json.dumps(ARCH.to_dict()), "--simulator"]) == 0
    text = capsys.readouterr().out
    assert ports(text) == ports(top_verilog(ARCH))
    assert "initial begin" in top_verilog(ARCH) and "initial begin" not in text
    assert not re.search(r"^ +reg [^;]*= *\d+'", text, re.M)
    assert re.search(r"<= rst;$", text, re.M)
    with pytest.raises(SystemExit):
        main(["--simulator", "--no-reset"])
    assert capsys.readouterr().err.endswith("error: --simulator needs the reset, which --no-reset leaves out\n")


def test_the_module_as_a_program(tmp_path):
    out = tmp_path / "top.v"
    command = [sys.executable, "-m", "sordino_hw.gateware.generate", "--arch", json.dumps(ARCH.to_dict()), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "rst" in ports(out.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "nonsense"], "error: unknown architecture 'nonsense': the presets are ulx3s-85f"),
        (["--arch", "{nonsense"], "error: --arch '{nonsense' is not a JSON object"),
        (["--arch", json.dumps({**ARCH.to_dict(), "lanes": 7})], "error: architecture 'custom': lanes must be a multiple of 8"),
        (["--arch", json.dumps(ARCH.to_dict()), "-o", "/nonexistent/top.v"], "error: cannot write /nonexistent/top.v: "),
    ],
)
def test_refusals(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1 and captured.out == ""
