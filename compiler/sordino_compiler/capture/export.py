"""From a `torch.nn.Module` to an exported graph in the form that the planner and the quantiser read."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from sordino_hw.spec.errors import CompileError, InputError, SordinoError

from ..fx.nodes import attribute
from .parametrised import plain
from .rewrites import canonicalise

__all__ = ["capture", "evaluation", "examples"]


def examples(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One example input per argument of `forward`, float, batch first. Raises `InputError`."""
    found = (example,) if isinstance(example, Tensor) else tuple(example)
    if not found or not all(isinstance(t, Tensor) for t in found):
        raise InputError(
            "the example must be a tensor (N, C, H, W), or a tuple with one tensor for each argument of forward; "
            f"found {type(example).__name__}. Pass for instance torch.zeros(1, 3, 32, 32)."
        )
    for i, t in enumerate(found):
        if not 2 <= t.dim() <= 4 or t.shape[0] < 1 or not t.is_floating_point():
            raise InputError(
                f"example input {i} has shape {tuple(t.shape)} and dtype {t.dtype}; expected floating point of shape (N, C, H, W), "
                "(N, C, L) or (N, F) with N >= 1. Add the batch dimension, and convert with .float()."
            )
    return found


@contextlib.contextmanager
def evaluation(model: nn.Module):
    """Evaluation mode; every submodule's own mode is put back afterwards."""
    before = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for m, mode in before.items():
            m.training = mode


def capture(model: nn.Module, example: Tensor | Sequence[Tensor]) -> GraphModule:
    """Exports a model in evaluation mode and brings its graph into canonical form.

    It shares the model's parameters, but for parametrised ones: of those it has the values.

    The batch size stays free where the model allows it; otherwise it is 1, and `meta["batch"]` of the result says so
    (None where it is free). Raises `InputError` for a bad example, and `CompileError` where `torch.export` fails and for
    parameters and statistics that are not finite.
    """
    inputs = tuple(t.detach() for t in examples(example))
    if any(parametrize.is_parametrized(m) for m in model.modules()):
        model = plain(model)
    with evaluation(model), warnings.catch_warnings(), _without_logs(), torch.no_grad():
        warnings.simplefilter("ignore")
        module, batch = _export(model, inputs)
    _finite(module)
    canonicalise(module)
    module.meta["batch"] = batch
    return module


@contextlib.contextmanager
def _without_logs():
    """Keeps torch's own account of a trace that fails, some dozens of lines, out of the output; the reason is in our error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
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


def _export(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[GraphModule, int | None]:
    # Export takes a batch of one for a constant, so a free batch is traced with two.
    doubled = tuple(torch.cat([t[:1], t[:1]]) for t in inputs)
    free = {0: torch.export.Dim.AUTO}
    try:
        bound = inspect.signature(model.forward).bind(*doubled).arguments
        dims = {k: tuple(free for _ in v) if isinstance(v, tuple) else free for k, v in bound.items()}
        program = torch.export.export(model, doubled, dynamic_shapes=dims)
        module = program.module(check_guards=False)
        shapes = [n.meta["val"].shape[0] for n in module.graph.nodes if n.op == "placeholder"]
        if not any(isinstance(s, int) for s in shapes):
            return module, None
    except Exception:  # whatever the tracer raises: a fixed batch may still work, and its error is reported
        pass
    try:
        program = torch.export.export(model, tuple(t[:1] for t in inputs))
    except SordinoError:  # a layer says why it cannot be exported
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CompileError(
            f"torch.export cannot trace {type(model).__name__}: {reason} "
            "Check that forward takes the example's inputs, and has no branch that depends on the data."
        ) from error
    return program.module(check_guards=False), 1
