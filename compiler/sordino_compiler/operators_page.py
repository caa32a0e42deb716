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
