"""The accelerator in Amaranth, one folder for each part of the data path.

`fetch`: from an output to activation words; `issue`: from words to events; `compute`: from events to sums; `post`: from sums to
stores; `memory`: the activation memory, and a core's memories; `host`: the host's access. The modules of this folder are control
(`run_control`, `sequencer`, `dispatcher`, `flight`, `perf`) and assembly (`core`, `cluster`, `top`); `stages` says which classes a
profile is built from, `small` has the small core's. `lib` and `primitives` are what all of them are made of. `generate` writes the
Verilog.
"""
