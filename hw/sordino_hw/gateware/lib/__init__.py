"""FIFOs and combinational helpers."""
