"""From a user's model to an exported graph in the form that the planner and the quantiser read."""

import contextlib
import inspect
import io
import logging
import re
import traceback
import warnings
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from sordino_hw.spec.errors import CompileError, SordinoError

from ..fx.nodes import attribute
from ..fx.source import FOREIGN
from .evaluation import evaluation
from .inputs import Call, call_of
from .models import as_module
from .parametrised import plain
from .rewrites import canonicalise

__all__ = ["capture", "export"]


def capture(model: Any, example: Any) -> GraphModule:
    """Exports a user's model and brings its graph into canonical form. Its arguments are one tensor for each input.

    `model` is what `as_module` takes, `example` what `call_of` takes. Errors are those of both, and of `export`.
    """
    model = as_module(model)
    call, inputs = call_of(model, example)
    return export(model, call, inputs)


def export(model: nn.Module, call: Call, inputs: tuple[Tensor, ...]) -> GraphModule:
    """The graph of a model in evaluation mode, in canonical form; its arguments are one tensor for each input.

    It shares the model's parameters, but for parametrised ones and those that are not float32: of those it has the values.

    The batch size stays free where the model allows it; otherwise it is 1, and `meta["batch"]` of the result says so
    (None where it is free); `meta["nonnegative"]` says whether the inputs given here are. Raises `CompileError` where `torch.export` fails and for parameters and statistics that are not
    finite.
    """
    if any(parametrize.is_parametrized(m) for m in model.modules()):
        model = plain(model)
    with evaluation(model), warnings.catch_warnings(), _without_logs(), torch.no_grad():
        warnings.simplefilter("ignore")
        module, batch = _export(model, call, inputs)
    _flat_inputs(module)
    _finite(module)
    canonicalise(module)
    module.meta["batch"] = batch
    module.meta["nonnegative"] = all(bool(t.min() >= 0) for t in inputs)
    return module


@contextlib.contextmanager
def _without_logs():
    """Keeps torch's own account of a trace that fails, some dozens of lines, out of the output; the reason is in our error.

    It logs a part and prints the rest on standard error.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _finite(module: GraphModule) -> None:
    """Refuses a graph with a parameter or buffer that holds NaN or infinity, naming all of them."""
    bad = {}
    for node in module.graph.nodes:
        value = attribute(module, str(node.target)) if node.op == "get_attr" else None
        if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta and (n := int((~value.isfinite()).sum())):
            bad[str(node.target)] = f"{node.target}: {n:,} of {value.numel():,}"
    if bad:
        raise CompileError(
            f"the model holds values that are NaN or infinite ({'; '.join(bad.values())}). "
            "Load a checkpoint from before the training diverged, or repair these tensors."
        )


def _export(model: nn.Module, call: Call, inputs: tuple[Tensor, ...]) -> tuple[GraphModule, int | None]:
    # Export takes a batch of one for a constant, so a free batch is traced with two.
    args, kwargs = call.arguments(tuple(torch.cat([t[:1], t[:1]]) for t in inputs))
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        free = {0: torch.export.Dim.AUTO}
        dims = pytree.tree_map(lambda leaf: free if isinstance(leaf, Tensor) else None, dict(bound))
        program = torch.export.export(model, args, kwargs, dynamic_shapes=dims)
        module = program.module(check_guards=False)
        values = [n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder"]
        if all(_is_free(v.shape[0]) for v in values if isinstance(v, Tensor)):
            return module, None
    except Exception:  # whatever the tracer raises: a fixed batch may still work, and its error is reported
        pass
    try:
        args, kwargs = call.arguments(tuple(t[:1] for t in inputs))
        program = torch.export.export(model, args, kwargs)
    except SordinoError:  # a layer says why it cannot be exported
        raise
    except Exception as error:
        raise CompileError(f"torch.export cannot trace {type(model).__name__}{_line(error)}: {_explained(error)}") from error
    return program.module(check_guards=False), 1


def _is_free(size: int | torch.SymInt) -> bool:
    """Whether the trace left a size open: `len(x)` makes a number of it, of which the symbol knows."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


REMEDIES = (
    (
        r"data-dependent|Could not guard|Could not extract specialized|unbacked",
        "forward depends on the values of a tensor there, in a branch, a loop or a size. The array runs the same operators for every input: "
        "compute both sides and choose with torch.where, or decide before the model is called.",
    ),
    (
        r"\.numpy\(\)|numpy|__array__",
        "NumPy is not traced: use operators of torch in forward, or convert before the model is called.",
    ),
)
"""What is wrong and what to do, by what the tracer says."""


def _explained(error: Exception) -> str:
    """In our words where the cause is known, else in the tracer's."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return next(
        (text for pattern, text in REMEDIES if re.search(pattern, str(error))),
        f"{reason} Check that forward takes the example's inputs, and has no branch that depends on the data.",
    )


def _line(error: Exception) -> str:
    """` (model.py:31)`: the user's line that the tracer was at, as far as it is known."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not any(part in f.filename for part in (*FOREIGN, "/lib/python3"))
    ]
    own = [f for f in frames if not f.filename.startswith("<")]
    return f" ({PurePath(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def _flat_inputs(module: GraphModule) -> None:
    """Makes the graph take one tensor for each input, in order, in place of the structure that forward takes."""
    inputs = []
    for node in [n for n in module.graph.nodes if n.op == "placeholder"]:
        if isinstance(node.meta.get("val"), Tensor):
            inputs.append(node)
        elif node.users:
            node.replace_all_uses_with(node.meta.get("val"))
            module.graph.erase_node(node)
        else:
            module.graph.erase_node(node)
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    _, spec = pytree.tree_flatten((tuple(range(len(inputs))), {}))
    module.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo([str(n.target) for n in inputs], spec, info.out_spec)))
    module.recompile()
