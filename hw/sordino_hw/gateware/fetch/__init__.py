"""From an output's job to its activation words: walk the kernel, clip, test occupancy, read."""
