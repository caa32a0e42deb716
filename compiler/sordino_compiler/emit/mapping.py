"""How a layer is spread over the cores: the `Mapping` of an operation, and the plan of a layer when it is forced."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import RUN_MAX

__all__ = ["Forced", "Mapping", "Plan", "forced_plan"]


@dataclass(frozen=True)
class Mapping:
    """How one operation uses the cores: `split` groups that take different outputs, and in each group `slices` cores, each
    on a word column of outputs of its own.

    `run` outputs of a row are dispatched together; with `window` a vector operation keeps in the word window what the next
    output of a run reads again.
    """

    split: int = 1
    slices: int = 1
    run: int = 1
    window: bool = False

    def __str__(self) -> str:
        parts = [f"{self.split} group{'s' * (self.split > 1)} x {self.slices} slice{'s' * (self.slices > 1)}"]
        parts += [f"runs of {self.run}"] * (self.run > 1) + ["window"] * self.window
        return ", ".join(parts)

    def check(self, arch: ArchConfig) -> None:
        """Raises `CompileError` for a mapping that the architecture does not have."""
        if self.split not in (1, 2, 4, 8) or self.slices < 1 or self.split * self.slices > arch.cores:
            raise CompileError(
                f"mapping {self}: there must be 1, 2, 4 or 8 groups, and groups x slices at most the cores of architecture "
                f"{arch.name!r}: {arch.cores}."
            )
        if not 1 <= self.run <= RUN_MAX:
            raise CompileError(f"mapping {self}: a run takes 1 to {RUN_MAX} outputs.")


Plan = list[tuple[range, Mapping]]
"""Word columns of a layer's outputs, and the mapping of the operations that compute them, in order."""

Forced = Mapping | Callable[[str], Mapping]
"""One mapping for every layer, or the function from a layer's name to its mapping. What a layer does not allow is left out of
it: slices where its word columns of outputs are not neighbours, runs where partial sums are kept, the window where kernels
are too large, do not overlap or are no vector operation's."""


def forced_plan(forced: Forced, name: str, blocks: Iterable[range], arch: ArchConfig) -> Plan:
    """The plan of layer `name`, whose word columns may be covered together within each of `blocks`."""
    mapping = forced if isinstance(forced, Mapping) else forced(name)
    mapping.check(arch)
    plan: Plan = []
    for block in blocks:
        for first in range(block.start, block.stop, mapping.slices):
            columns = range(first, min(first + mapping.slices, block.stop))
            plan.append((columns, replace(mapping, slices=len(columns))))
    return plan
