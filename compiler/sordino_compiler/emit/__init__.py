"""Nodes, with the layouts of their values, become operations, and operations segments of instructions."""
