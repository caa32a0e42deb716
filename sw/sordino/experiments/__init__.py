"""Experiments on top of the API: demo, study, benches, tasks and workloads."""
