"""Quantisation-aware training: the model as the array will compute it, trainable."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sordino_compiler.capture import as_module, export
from sordino_compiler.capture.norms import fold_norms
from sordino_compiler.edge_steps import entering, torch_edges
from sordino_compiler.edges import Cut, cut_edges
from sordino_compiler.fx.modules import shallow_copy
from sordino_compiler.fx.nodes import operator_name
from sordino_compiler.fx.problems import refuse
from sordino_hw.spec.arch import ArchConfig, preset

from ..sparsity.prune import masks
from ._torchao import prepare_qat_pt2e
from .flow import Calibration, finish, load, observe, switch
from .model import QuantizedModel
from .quantizer import SordinoQuantizer, link
from .remarks import warn_of_calibration

__all__ = ["QATModel", "finish_qat", "prepare_qat"]


class QATModel(nn.Module):
    """A trainable model that rounds weights and activations as the array will.

    Use it like any module: `parameters()`, `train()`, `eval()`, a call with float tensors. `finish_qat` makes the
    `QuantizedModel` of it.
    """

    def __init__(
        self,
        prepared: GraphModule,
        quantizer: SordinoQuantizer,
        example: tuple[Tensor, ...],
        batch: int | None,
        name: str,
        cut: Cut,
    ):
        super().__init__()
        self.prepared = prepared
        self.quantizer, self.example, self.batch, self.name = quantizer, example, batch, name
        self.activations = link(prepared)
        self.cut, self.edges = cut, torch_edges(cut)

    def forward(self, *inputs: Tensor):
        return self.prepared(*inputs) if self.edges is None else self.edges(self.prepared, *inputs)

    def train(self, mode: bool = True) -> "QATModel":
        """Dropout follows the mode, and ranges of activations are learnt in training only; batch norm keeps its statistics in both."""
        for quantizer in self.activations.values():
            quantizer.enable_observer(mode)
        for node in self.prepared.graph.nodes:
            if operator_name(node) in DROPOUTS:
                node.update_arg(2, mode)
        self.prepared.recompile()
        self.training = mode
        return self


DROPOUTS = ("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout")


def prepare_qat(
    model: Any,
    calibration: Calibration,
    arch: str | ArchConfig = "ulx3s-85f",
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> QATModel:
    """Prepares a copy of `model` for quantisation-aware training; it starts in training mode.

    Batch norms are folded into the weights before them, or stand as a product and a sum where something else reads what they
    read: their gains and offsets go on training, their statistics stay as they are, so start from a model that is trained already. Weights that `prune` made zero stay zero.

    `calibration` is as for `quantize`: it sets the first ranges, which then follow a running mean of each batch's
    largest magnitude. Raises `InputError` and `CompileError`, and warns of the calibration data, as `quantize` does.
    """
    arch = preset(arch)
    model = as_module(model)
    call, example, batches = load(model, calibration, batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = cut_edges(copy.deepcopy(export(model, call, example)), arch)  # a pruned module cannot be copied, its graph can
    refuse(cut.problems)
    module, _ = shallow_copy(cut.core)
    fold_norms(module)
    batch = module.meta["batch"]
    quantizer = SordinoQuantizer(arch, "minmax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_qat_pt2e(module, quantizer)
    for path, keep in masks(model).items():
        # A weight that is zero, has no gradient and no momentum stays zero, with weight decay too.
        prepared.get_parameter(path).register_hook(keep.clone().mul)
    qat = QATModel(prepared, quantizer, example, batch, type(model).__name__, cut).eval()
    switch(prepared, rounding=False, observing=True)
    with torch.no_grad():
        observe(prepared, batches, batch, progress, entering(cut))
    warn_of_calibration(batches)
    for activation in qat.activations.values():
        activation.averaging = True
    switch(prepared, rounding=True, observing=True)
    return qat.train()


def finish_qat(model: QATModel) -> QuantizedModel:
    """Fixes the integers. `model` is used up: it cannot be trained further."""
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(*model.example)  # the weights have moved since their largest values were last seen
        quantizer = model.quantizer
        return finish(
            *(model.prepared, quantizer.plan, model.activations, quantizer.arch, model.example, model.batch, model.name, model.cut)
        )
