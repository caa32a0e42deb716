"""The page `docs/reference/operators.md`, from the table of operators and the constraints' docstrings."""

from .ops import FAMILIES, OPERATORS
from .ops import constraints as must

__all__ = ["operators_page"]

_HEAD = """\
# Supported operators

*Generated from the files of `compiler/sordino_compiler/ops/` by `make docs`.*

The operators of the exported graph (`torch.export`, functional ATen) that compile, what they become, and the rules that they must keep. A model
that breaks one is refused with that rule, what was found, and the line of the model; `sordino check` and `sd.check` list all of them at once, in seconds.
`CONV` and `VEC` are the array's two operations ([isa.md](isa.md)); *fused* and *allocation* cost no cycle of their own.

**Tables.** Element-wise operators that together depend on one activation, however they are written, become one table of 256 entries: `x * relu6(x + 3) / 6`,
`torch.where(x > 0, x, 0.1 * x)`, `(x > 0.5) * x`. A layer has one table, which is fused into the convolution, sum or pooling before it if nothing else reads that. A table's index is
the value in front of it in 8 bits, over the range in which calibration finds it; clamps in front of it bound that range. Where the function is infinite, the entry is the largest activation of that sign; where
it is not a number (a square root below 0), it has the value of the nearest entry where it is one. A program segment has as many different tables as the architecture
(`tables`); a program that needs more is cut into further program segments, between which the host loads the next ones.
"""


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def operators_page() -> str:
    """Markdown: by family; operators with the same result and rules share a row."""
    order = [family.__name__ for family in FAMILIES]
    rows: dict[tuple[str, str], list[str]] = {}
    for name, entry in sorted(OPERATORS.items(), key=lambda item: order.index(item[1].plan.__module__)):
        rules = " ".join(_prose(c.__doc__) for c in entry.constraints)
        rows.setdefault((entry.becomes, rules), []).append(f"`{name}`")
    table = "| operators | become | rules |\n| --- | --- | --- |\n" + "".join(
        f"| {', '.join(names)} | {becomes} | {rules} |\n" for (becomes, rules), names in rows.items()
    )
    return "\n".join((_HEAD, f"For all of them: {_prose(must.fixed_sizes.__doc__)}\n", table))
