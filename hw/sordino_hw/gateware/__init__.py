"""The accelerator in Amaranth, one folder for each part of the way that data takes: fetch, issue, compute, post-processing,
host.
"""
