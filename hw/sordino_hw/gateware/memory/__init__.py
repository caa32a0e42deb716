"""The activation memory, which all cores share, and the memories of a core."""
