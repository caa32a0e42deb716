"""From PyTorch models to `.sdn` programs. The folders in the order of the way through them:

- `capture`: a model becomes an exported graph in canonical form (`fx` reads such graphs);
- `plan`: its nodes become layers;
- `quantised`: a quantised graph's layers become the integer graph (`graph`); `inspection` does that without quantising;
- `passes`: graph to graph;
- `schedule`: layouts, allocation, folding, and the mapping of every layer to the cores;
- `emit`: nodes become operations, and operations program segments;
- `driver`: `compile_graph`, which calls the last three in turn.

All that is particular to an operator stands in `ops`, one file a family.
"""
