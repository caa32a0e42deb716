"""Reading exported PyTorch graphs: arguments, shapes, where a node comes from, and what is wrong with it."""
