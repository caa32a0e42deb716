"""The golden model: executes a program instruction by instruction with NumPy."""
