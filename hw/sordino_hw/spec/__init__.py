"""The contract that hardware, models, compiler and runtime share: instruction set, architecture, numbers, `.sdn` files, errors.

Nothing here imports more than NumPy and safetensors: no HDL, no compiled loops, no torch."""
