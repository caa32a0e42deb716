"""From gateware to a placed and routed FPGA design, with Yosys and nextpnr: how fast, how large, and what limits it."""

from .devices import DEVICES, Device, device_of
from .flow import Synthesis, place_and_route, synthesise
from .harness import Harness, Registered, SerialHarness, harness_of
from .report import CriticalPath, Hop, Routed, SlowGroup
from .tools import tool_versions

__all__ = [
    "DEVICES",
    "CriticalPath",
    "Device",
    "Harness",
    "Hop",
    "Registered",
    "Routed",
    "SerialHarness",
    "SlowGroup",
    "Synthesis",
    "device_of",
    "harness_of",
    "place_and_route",
    "synthesise",
    "tool_versions",
]
