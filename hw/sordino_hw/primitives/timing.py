"""Latencies that every form keeps."""

__all__ = ["LATENCY", "MULTIPLIER_LATENCY"]

LATENCY = 2
"""Cycles from a block memory's address to its data, output register included: block RAM is slow out of the array, so
nothing may stand between it and a register, unless the clock is slow: then a memory is made with a `latency` of 1."""

MULTIPLIER_LATENCY = 2
"""Cycles from a multiplier's operands to its product: registered before and after."""
