"""Parametrised tensors (`torch.nn.utils.parametrize`: pruned weights, weight norm) as plain ones."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["make_plain", "plain"]


@torch.no_grad()
def make_plain(module: nn.Module) -> None:
    """Turns every parametrised tensor of one module, not of its children, into a parameter with its present value.

    `parametrize.remove_parametrizations` will not do: it changes the module's class, which deep copies share.
    """
    if not parametrize.is_parametrized(module):
        return
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in lists}
    trained = {name: any(p.requires_grad for p in lists[name].parameters(recurse=False)) for name in lists}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, trained[name]))


def plain(model: nn.Module) -> nn.Module:
    """A deep copy without parametrisations: their tensors have the values that they have in evaluation mode."""
    # Pruned and weight-normed modules hold tensors with a history, which deepcopy refuses; a forward makes them anew.
    held = [t for m in model.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf]
    model = copy.deepcopy(model, {id(t): t.detach().clone() for t in held})
    modes = {m: m.training for m in model.modules()}
    model.eval()  # spectral norm changes its vectors whenever its weight is read in training mode
    for module in list(model.modules()):
        make_plain(module)
    for m in model.modules():
        m.training = modes[m]
    return model
