"""Place and route for the ECP5: a placer and a router for netlists that nextpnr packed. It knows nothing of the accelerator.

`run` is all of it, from a packed netlist to one with bels and routes; `python -m sordino_hw.ecp5_pnr` is its command.
"""
