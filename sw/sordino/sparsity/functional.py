"""Finds activations that a model calls as functions, which no method can replace."""

import ast
import inspect
import textwrap

from torch import nn

from ..nn.base import SparseActivation

__all__ = ["functional_relus"]


def functional_relus(model: nn.Module) -> list[str]:
    """Calls of `relu` as a function or method in the forward methods of `model`'s modules, as `file:line`."""
    found = []
    own = {
        type(m): None
        for m in model.modules()
        if not isinstance(m, SparseActivation) and not type(m).__module__.startswith("torch.")
    }
    for cls in own:
        try:
            source, first = inspect.getsourcelines(cls)
            tree = ast.parse(textwrap.dedent("".join(source)))
            file = inspect.getsourcefile(cls)
        except (OSError, TypeError, SyntaxError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                f = node.func
                name = f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ""
                if name in ("relu", "relu_") and not (isinstance(f, ast.Attribute) and _is_self(f.value)):
                    found.append(f"{file}:{first + node.lineno - 1}")
    return found


def _is_self(node: ast.expr) -> bool:
    """`self.relu(x)` and `self.block.relu(x)` are modules."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id == "self"
