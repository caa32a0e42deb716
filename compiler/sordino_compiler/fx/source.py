"""Where a node of an exported graph comes from in the user's model."""

import re
from pathlib import PurePath

from torch.fx import Node

__all__ = ["FOREIGN", "module_path", "where"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
FOREIGN = ("/torch/", "/torchao/", "/sordino/nn/", "/sordino_compiler/", "<eval_with_key>")
"""Parts of the paths of files that are not the user's."""


def module_path(node: Node) -> str:
    """Path of the innermost module that the node was traced in (`layer1.0.conv2`), or `''`."""
    stack = node.meta.get("nn_module_stack") or {}
    for path, _ in reversed(list(stack.values())):
        if path:
            return path.removeprefix("L['self'].")
    return ""


def where(node: Node) -> str:
    """`layer1.0.conv2, model.py:31`, as far as it is known; else the node's own name."""
    line = ""
    for frame in _FRAME.finditer(node.meta.get("stack_trace") or ""):
        if not any(part in frame["file"] for part in FOREIGN):
            line = f"{PurePath(frame['file']).name}:{frame['line']}"
    return ", ".join(part for part in (module_path(node), line) if part) or node.name
