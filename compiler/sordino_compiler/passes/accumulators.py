"""The proof that accumulators do not overflow."""

from sordino_hw.spec.errors import CompileError

from ..graph import Computation, Graph

__all__ = ["prove_accumulators"]


def prove_accumulators(graph: Graph) -> Graph:
    """Proves from the actual weights that no final sum leaves 32 bits, whatever the activations."""
    values = graph.values
    for n in graph.nodes:
        if not isinstance(n, Computation):
            continue
        peaks = [max(abs(bound) for bound in values[i].range(graph.arch)) for i in n.inputs]
        bound = n.peak(peaks)
        if bound.max() >= 1 << 31:
            raise CompileError(
                f"{n.where}: channel {int(bound.argmax())} can reach an "
                f"accumulator of {int(bound.max())}, beyond the 32 bits of the array (2147483647). "
                "Use smaller weights or a smaller bias (a coarser scale), or fewer inputs to the layer."
            )
    return graph
