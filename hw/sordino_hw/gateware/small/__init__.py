"""Stages of the small core (profile `small`).

Its clock is slow, so that one cycle has room for what takes several in the pipelined profile, and registers are scarce. Its
accumulators keep an output's sums until these have drained, and nothing is issued meanwhile.
"""
