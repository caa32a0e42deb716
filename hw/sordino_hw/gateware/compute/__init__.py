"""Multipliers and accumulators."""
