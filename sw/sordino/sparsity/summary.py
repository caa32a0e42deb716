"""What `sparsify` did: `model.sparsification`."""

from dataclasses import dataclass

__all__ = ["Left", "Replaced", "Sparsification"]


@dataclass(frozen=True)
class Replaced:
    """An activation in whose place a method's layer stands."""

    path: str
    """Of the layer in the module tree."""
    was: str
    """The activation, such as "relu6"."""
    method: str
    bound: float | None
    """The largest value that passes (6 of a ReLU6)."""
    blend: bool
    """Whether the activation fades into the layer while `Blend` says so."""


@dataclass(frozen=True)
class Left:
    """An activation that stays as it was."""

    path: str
    was: str
    reason: str


@dataclass(frozen=True)
class Sparsification:
    """What was replaced, and what was left and why; `str` is a table."""

    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of one image of each input, where the model was run to find its calls: needed to make the same layers again."""

    def __str__(self) -> str:
        rows = [("activation", "was", "now")]
        for r in self.replaced:
            bound = "" if r.bound is None else f", at most {r.bound:g}"
            rows.append((r.path or "(the model)", r.was, f"{r.method}{bound}{', blended in' if r.blend else ''}"))
        rows += [(entry.path or "(the model)", entry.was, f"left: {entry.reason}") for entry in self.left]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[2]]) for row in rows]
        return "\n".join([f"{len(self.replaced)} activations replaced, {len(self.left)} left", *lines])
