"""Models of the array: golden, timing, and the Verilator runner. Needs no torch."""
