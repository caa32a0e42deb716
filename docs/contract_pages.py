"""The pages of the contract, from the docstrings of `sordino_hw.spec`: architecture fields, `.sdn` files, errors."""

import ast
import dataclasses
import inspect
from types import ModuleType

from sordino_hw.spec import arch, errors, host, program

__all__ = ["architecture_page", "errors_page", "sdn_page"]

GENERATED = "*Generated from `{source}` by `make docs`.*"


def _source(module: ModuleType) -> str:
    return f"hw/{module.__name__.replace('.', '/')}.py"


def _attributes(cls: type) -> dict[str, tuple[str, str]]:
    """Type and docstring of every annotated attribute of a class, as they stand in its source."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[item.target.id] = ast.unparse(item.annotation), _text(after.value.value) if is_doc else ""
    return found


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def architecture_page(kind: type[arch.ArchConfig] = arch.ArchConfig) -> str:
    """`docs/reference/architecture-fields.md`: the fields of `kind`."""
    docs = {name: doc for c in kind.__mro__ if issubclass(c, arch.ArchConfig) for name, doc in _attributes(c).items()}
    presets = arch.PRESETS
    rows = [
        [
            f"`{f.name}`",
            "" if f.default is dataclasses.MISSING else f"{f.default}",
            *(f"{getattr(p, f.name, f.default)}" for p in presets.values()),
            docs[f.name][1],
        ]
        for f in dataclasses.fields(kind)
        if f.name != "name"
    ]
    profiles = [
        [f"`{name}`", ", ".join(f"`{k}` = {v}" for k, v in fixed.items()) or "nothing"] for name, fixed in arch.PROFILES.items()
    ]
    return f"""# Architecture fields

{GENERATED.format(source=_source(arch))}

An architecture is an `ArchConfig`: a preset by name, or one of your own ([how-to](../how-to/own-architecture.md)). A value that breaks a rule raises `ArchError` with the rule.
{_text(arch.ArchConfig.__doc__).partition(". ")[2]}

{_table(["field", "default", *(f"`{name}`" for name in presets), "meaning"], rows)}

A profile fixes some fields:

{_table(["profile", "fixes"], profiles)}
"""


def sdn_page() -> str:
    """`docs/reference/sdn.md`."""

    def fields(cls: type) -> str:
        return _table(["field", "type", "meaning"], [[f"`{k}`", f"`{t}`", doc] for k, (t, doc) in _attributes(cls).items()])

    return f"""# The `.sdn` file

{GENERATED.format(source=_source(program))}

A `.sdn` file holds a compiled program. {_text(program.__doc__).partition(". ")[2].replace("A `.sdn` file", "It")}
The format has version {program.FORMAT_VERSION}. Why it is so: [decision 0008](../decisions/0008-sdn-is-safetensors.md).

`Program.load` checks, in this order: the container, the checksum, the version, the architecture and its hash, and the bounds of every image and tensor. It raises `BinaryError` for
anything that `Program.save` cannot have written. `sordino disasm FILE.sdn` prints a file.

Image tensors are named `SEGMENT.NAME`, with the number of the program segment and one of {", ".join(f"`{n}`" for n in program._IMAGES)}.

## The document

| key | meaning |
|---|---|
| `version` | of the format |
| `needs` | the first release of Sordino that reads it |
| `arch`, `arch_hash` | the [architecture](architecture-fields.md), and its hash |
| `segments` | by program segment: `cycle_limit`, and `ops`: pairs of the fields of `Op` below |
| `tensors`, `layers` | lists of the objects below |
| `inputs`, `outputs` | names of tensors |
| `input_shapes`, `output_shapes` | their shapes in the model |
| `host` | null, or the steps of the host: `inputs` (the caller's: `name`, `shape`), `before` and `after` the array, `returns` (the structure of what is returned) and the names of its `constants` |
| `meta` | for people: name of the model, options of the compiler. No run depends on it |

## `Tensor`

{_text(program.Tensor.__doc__)}

{fields(program.Tensor)}

## `Layer`

{_text(program.Layer.__doc__)}

{fields(program.Layer)}

## `Op`

{_text(program.Op.__doc__)}

{fields(program.Op)}

## Host steps

{_text(host.__doc__)}

A step has `op`, `attributes` (typed, as below), `inputs` and `outputs` (names of values; every value is defined once) and `source`. The array's inputs are values before it; its
outputs, as real numbers, are values after it. The constants are the image tensors `host.0`, `host.1`, ... in the order of their names: without a batch, the same for
every image. What is returned is `{{"value": name, "joined": bool}}`, `{{"literal": value}}`, or `{{"group": "list" | "tuple" | "dict" | "namedtuple", "items": [...],
"keys": [...], "name": text}}`; with `joined` the first dimension is joined with the batch. More: [what runs on the host](../explanation/host.md).

{_table(["op", "operands", "attributes", "meaning"], _operations())}

## Program segments

{inspect.getdoc(program.Segment)}
"""


def _operations() -> list[list[str]]:
    def attributes(cls: type) -> str:
        return ", ".join(f"`{f.name}: {getattr(f.type, '__name__', f.type)}`" for f in dataclasses.fields(cls))  # type: ignore[arg-type]

    return [
        [f"`{name}`", str(c.least) if c.least == c.most else f"{c.least} to {c.most}", attributes(c), _text(c.__doc__)]
        for name, c in host.OPERATIONS.items()
    ]


def errors_page() -> str:
    """`docs/reference/errors.md`."""
    rows = [
        [f"`{name}`", ", ".join(f"`{b.__name__}`" for b in getattr(errors, name).__bases__), _text(getattr(errors, name).__doc__)]
        for name in errors.__all__
    ]
    return f"""# Errors

{GENERATED.format(source=_source(errors))}

What a user can cause raises a `SordinoError`. Its message is one paragraph: what is at fault, where it is, the limit, and a remedy. The command line prints it on standard
error and ends with exit code 2. Files are written whole or not at all. Any other exception is a bug; please report it with its traceback.

{_table(["error", "is a", "raised when"], rows)}

The machine's own traps are in the [instruction set](isa.md#traps). `TrapError` carries the trap's cause and the instruction.
"""
