"""From an exported PyTorch graph to a `.sdn` program."""
