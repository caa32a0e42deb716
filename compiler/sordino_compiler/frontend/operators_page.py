"""The page `docs/operators.md`, from the table of operators and the constraints' docstrings."""

from . import constraints as must
from .operators import OPERATORS

__all__ = ["operators_page"]

_HEAD = """\
# Supported operators

*Generated from `compiler/sordino_compiler/frontend/operators.py` by `make docs`.*

The operators of the exported graph (`torch.export`, functional ATen) that compile, what they become, and the rules that they must keep. A model
that breaks one is refused with that rule, what was found, and the line of the model; `sordino check` and `sd.check` list all of them at once, in seconds.
`CONV` and `VEC` are the array's two operations ([isa.md](isa.md)); *fused* and *allocation* cost no cycle of their own.
"""


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


def operators_page() -> str:
    """Markdown: operators with the same result and rules share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, entry in OPERATORS.items():
        rules = " ".join(_prose(c.__doc__) for c in entry.constraints)
        rows.setdefault((entry.becomes, rules), []).append(f"`{name}`")
    table = "| operators | become | rules |\n| --- | --- | --- |\n" + "".join(
        f"| {', '.join(names)} | {becomes} | {rules} |\n" for (becomes, rules), names in rows.items()
    )
    return "\n".join((_HEAD, f"For all of them: {_prose(must.fixed_sizes.__doc__)}\n", table))
