"""The RTL in Verilator: build, drive, run whole programs."""
