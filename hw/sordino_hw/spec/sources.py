"""Which Python sources a module depends on, and what they do: keys for caches of what is made from them."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["code_digest", "import_closure"]


def import_closure(root: Path, module: str) -> list[Path]:
    """The files below `root`, the folder of a package, that `module` ("PACKAGE.NAME") imports, directly or not, itself first.

    Imports are read from the sources, those inside functions too; nothing is imported. A package that is imported counts with
    the `__init__.py` of each folder on the way to it.
    """
    package, found, queue = root.name, {}, [module]
    while queue:
        name = queue.pop()
        path = _file(root, name)
        if path is None or path in found:
            continue
        found[path] = name
        queue.extend(name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1))
        inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                queue.extend(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = inside.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(filter(None, (base, node.module)))
                queue.extend([source, *(f"{source}.{alias.name}" for alias in node.names)])
        queue = [name for name in queue if name == package or name.startswith(package + ".")]
    return list(found)


def _file(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split(".")[1:])
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def code_digest(paths: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, of what sources do: comments, docstrings and layout do not count.

    The order of `paths` does not count either. Raises `SyntaxError` for what is no Python.
    """
    parts = sorted(hashlib.sha256(_code(path).encode()).hexdigest() for path in paths)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _code(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
    return f"{path.name}\n{ast.dump(tree)}"


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
