"""What users hand over: models in any wrapping and precision, inputs in any form, and mistakes. `check`, `quantize` and `compile` agree."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import sordino as sd
from sordino import zoo
from sordino.cli.models import load_weights
from sordino_compiler.capture import as_module, call_of, capture

torch.set_num_threads(1)

X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()


NET = net()


class Around(nn.Module):
    """The network, called by a function of it and what forward is given."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.n, self.function, self.count = inner or NET, function, 0
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        return self.function(self, x)


class Keywords(nn.Module):
    def forward(self, x, mask=None, *, temperature=1.0):
        return NET(x) / temperature if mask is None else NET(x * mask)


class KeywordOnly(nn.Module):
    def forward(self, *, image, scale=None):
        return NET(image)


class Varied(nn.Module):
    def forward(self, *xs):
        return NET(xs[0])


class Lightning(nn.Module):
    """Like a LightningModule: forward beside the steps of a training."""

    def __init__(self):
        super().__init__()
        self.model, self.loss = net(), nn.CrossEntropyLoss()

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        return self.loss(self(batch[0]), batch[1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(F.relu(self.a(x.flatten(1)[:, :8])))


def sequence(m, x):
    return torch.stack([m.n(x[i : i + 1])[0] for i in range(len(x))])


def counting(m, x):
    m.calls += 1
    m.count += 1
    return m.n(x)


def autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.n(x)


def graded(m, x):
    with torch.enable_grad():
        y = m.n[0](x)
    return m.n[3](m.n[2](m.n[1](y)))


def checkpointed(m, x):
    return torch.utils.checkpoint.checkpoint(m.n, x, use_reentrant=False)


def changed(change, *, train=False):
    model = net()
    change(model)
    return model.train(train)


def frozen(model):
    model.requires_grad_(False)
    model[3].requires_grad_(True)


def half_inside(model):
    model[3].double()
    model[3].register_forward_pre_hook(lambda m, x: (x[0].to(m.weight.dtype),))


def exported(batch=1, dynamic=False):
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    return torch.export.export(net(), (X[:batch],), dynamic_shapes=shapes)


MODELS = {
    "torch.compile": lambda: torch.compile(net()),
    "compiled in place": lambda: changed(lambda m: m.compile()),
    "a compiled part": lambda: nn.Sequential(torch.compile(net())),
    "DataParallel": lambda: nn.DataParallel(net()),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(net()),
    "Lightning": Lightning,
    "ExportedProgram": exported,
    "ExportedProgram, batch free": lambda: exported(2, True),
    "module of a program": lambda: exported(2, True).module(),
    "symbolic trace": lambda: torch.fx.symbolic_trace(net()),
    "lambda": lambda: lambda v: NET(v),
    "function of weights": lambda: lambda v: F.linear(v.flatten(1), NET[3].weight[:, :1].expand(3, 64).contiguous()),
    "bound method": lambda: NET.forward,
    "another bound method": lambda: Lightning().model.forward,
    "partial": lambda: functools.partial(lambda model, v: model(v), net()),
    "keywords with defaults": Keywords,
    "keyword only": KeywordOnly,
    "*args": Varied,
    "half": lambda: net().half(),
    "bfloat16": lambda: net().bfloat16(),
    "double": lambda: net().double(),
    "a layer in double": lambda: changed(half_inside),
    "training mode, dropout": lambda: nn.Sequential(net(), nn.Dropout(0.5)).train(),
    "channels last": lambda: net().to(memory_format=torch.channels_last),
    "frozen": lambda: changed(frozen),
    "pruned": lambda: changed(lambda m: (prune.l1_unstructured(m[0], "weight", 0.5), m(X))),
    "pruned, half": lambda: changed(lambda m: (prune.l1_unstructured(m[0], "weight", 0.5), m(X), m.half())),
    "weight norm": lambda: changed(lambda m: parametrizations.weight_norm(m[3])),
    "weight norm by hooks": lambda: changed(lambda m: nn.utils.weight_norm(m[3])),
    "spectral norm, training": lambda: changed(lambda m: parametrizations.spectral_norm(m[3]), train=True),
    "tied": Tied,
    "forward hook": lambda: changed(lambda m: m[0].register_forward_hook(lambda m, x, y: y * 1.0)),
    "squeeze": lambda: Around(lambda m, x: m.n(x).squeeze()),
    "view of len": lambda: Around(lambda m, x: m.n[3](m.n[1](m.n[0](x)).view(len(x), -1))),
    "batch of one": lambda: Around(lambda m, x: m.n[3](m.n[1](m.n[0](x)).view(1, 36))),
    "loop over len": lambda: Around(sequence),
    "counting": lambda: Around(counting),
    "autocast": lambda: Around(autocast),
    "gradients on": lambda: Around(graded),
    "checkpoint": lambda: Around(checkpointed),
    "branch on a shape": lambda: Around(lambda m, x: m.n(x) if x.shape[-1] == 8 else m.n(F.interpolate(x, (8, 8)))),
    "cumsum within": lambda: Around(lambda m, x: m.n[3](m.n[:3](x).cumsum(1))),
    "random": lambda: Around(lambda m, x: m.n(x + torch.randn_like(x))),
}
"""Models that a user may have; each is accepted by `check`, `quantize` and `compile`, or by none."""


def outcome(model, example, calibration):
    """Whether `check`, and whether `quantize` and `compile` accept."""
    try:
        checked = sd.check(model, example).ok
    except sd.SordinoError:
        checked = False
    try:
        sd.compile(sd.quantize(model, calibration))
        compiled = True
    except sd.SordinoError:
        compiled = False
    return checked, compiled


REFUSED = {"random"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_check_quantize_and_compile_agree(name):
    checked, compiled = outcome(MODELS[name](), X[:1], X)
    assert checked == compiled
    if name in REFUSED:
        assert not checked


SAME = ["ExportedProgram", "lambda", "partial", "half", "pruned", "keyword only", "batch of one", "autocast", "gradients on"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAME)
def test_the_values_are_those_of_the_model(name):
    model = MODELS[name]()
    quantised = sd.quantize(model, X)
    plain = net() if name != "pruned" else model
    got = sd.Accelerator(sd.compile(quantised))(X)
    with torch.no_grad():
        error = (got - plain(X)).square().mean() / plain(X).square().mean()
    assert error < 0.01


def dict_input(x):
    return NET(x["image"])


def list_input(xs):
    return NET(xs[0]) + NET(xs[1])


def two_inputs(a, b):
    return NET(a) + NET(b)


LABELS = torch.arange(6) % 3
INPUTS = {
    "tensor": (NET, X[:1], X),
    "shape": (NET, (1, 1, 8, 8), X),
    "torch.Size": (NET, X.shape, X),
    "array": (NET, X[:1].numpy(), X.numpy()),
    "float64": (NET, X[:1].double(), X.numpy().astype(np.float64)),
    "half": (NET, X[:1].half(), X.half()),
    "uint8": (NET, (X[:1] > 0).byte(), (X * 40).clamp(0).byte()),
    "int32": (NET, (X[:1] > 0).int(), (X * 40).int()),
    "bool": (NET, X[:1] > 0, X > 0),
    "requires_grad": (NET, X[:1].clone().requires_grad_(), X.clone().requires_grad_()),
    "unbatched": (NET, X[0], X[0]),
    "unbatched vector": (nn.Linear(8, 3), X[0, 0, 0], [X[0, 0, 0], X[1, 0, 0]]),
    "list of unbatched": (NET, X[0], list(X)),
    "batches": (NET, X, [X[:4], X[4:]]),
    "batches with labels": (NET, X[:1], [(X[:4], LABELS[:4]), [X[4:], LABELS[4:]]]),
    "data set": (NET, X[0], torch.utils.data.TensorDataset(X, LABELS)),
    "DataLoader": (NET, X[:1], torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, LABELS), 4)),
    "tuple of one": (NET, (X[:1],), [(X,)]),
    "list of one": (NET, [X[:1]], [[X]]),
    "by name": (Keywords(), {"x": X[:1], "mask": None}, [{"x": X, "mask": None}]),
    "by name, defaults": (KeywordOnly(), {"image": X[:1]}, {"image": X}),
    "by name, labels": (KeywordOnly(), {"image": X[:1]}, [{"image": X, "label": LABELS}]),
    "keyword only": (KeywordOnly(), X[:1], X),
    "dict": (dict_input, {"image": X[:1]}, [{"image": X}]),
    "dict of arrays with labels": (dict_input, {"image": X[:1].numpy()}, [{"image": X.numpy(), "label": LABELS.numpy()}]),
    "one entry of a dict": (NET, {"image": X[:1], "label": LABELS[:1]}, [{"image": X, "label": LABELS}]),
    "list": (list_input, [X[:1], X[:1]], [[X, X]]),
    "two": (two_inputs, (X[:1], X[:1]), [(X, X), (X, X)]),
    "two shapes": (two_inputs, [(1, 1, 8, 8), (1, 1, 8, 8)], [(X, X)]),
    "two and labels": (two_inputs, (X[:1], X[:1]), [(X, X, LABELS)]),
    "wrong channels": (NET, X[:1].expand(1, 3, 8, 8), X.expand(6, 3, 8, 8)),
    "wrong size": (NET, (1, 1, 9, 12), torch.rand(4, 1, 9, 12)),
    "text": (NET, "1,1,8,8", ["a"]),
    "nothing": (NET, (), []),
    "None": (NET, None, [None]),
    "empty": (NET, X[:0], X[:0]),
    "complex": (NET, X[:1] + 0j, X + 0j),
}
REFUSED_INPUTS = {"wrong channels", "wrong size", "text", "nothing", "None", "empty", "complex"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", INPUTS)
def test_inputs_in_any_form(name):
    accepted = name not in REFUSED_INPUTS
    assert outcome(*INPUTS[name]) == (accepted, accepted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["by name", "dict", "list", "unbatched", "data set"])
def test_forms_are_compared_with_the_float_module(name):
    model, example, calibration = INPUTS[name]
    quantised = sd.quantize(model, calibration)
    assert sd.compare(model, quantised, example)


def adam():
    return torch.optim.Adam(net().parameters())


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))


def dynamic():
    return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


NO_MODELS = {
    "None": (lambda: None, r"^the model is None\. Give a torch\.nn\.Module; .*"),
    "a class": (
        lambda: nn.Sequential,
        r"^the model is the class Sequential, not an instance of it\. Give Sequential\(\.\.\.\), .*",
    ),
    "a state dict": (lambda: NET.state_dict(), r"^the model is a state dict of 4 tensors, .* call its load_state_dict .*"),
    "a checkpoint": (lambda: {"model": NET.state_dict(), "epoch": 3}, r"^the model is a dict, probably a checkpoint\. .*"),
    "a path": (lambda: "net.pt", r"^the model is the path 'net\.pt'\. Build the network, .* sordino\.load_onnx\(path\)\.$"),
    "a Path": (lambda: Path("net.onnx"), r"^the model is the path 'net\.onnx'\. .*"),
    "an optimizer": (adam, r"^the model is an optimizer \(Adam\)\. Give the torch\.nn\.Module whose parameters it trains\.$"),
    "a tensor": (lambda: X, r"^the model is a tensor; the model comes first, .*"),
    "a number": (lambda: 3, r"^the model is a int\. Give a torch\.nn\.Module, .*"),
    "a list": (lambda: [NET], r"^the model is a list\. Give .*"),
    "a module list": (lambda: nn.ModuleList([NET]), r"^ModuleList has no forward method, .*"),
    "scripted": (
        lambda: torch.jit.script(NET),
        r"^the model is TorchScript \(RecursiveScriptModule\), .* Give the Python module .*",
    ),
    "traced": (lambda: torch.jit.trace(NET, X[:1]), r"^the model is TorchScript .*"),
    "a scripted part": (
        lambda: nn.Sequential(torch.jit.script(NET)),
        r"^the model is TorchScript \(RecursiveScriptModule at '0'\), .*",
    ),
    "dynamically quantised": (
        dynamic,
        r"^the model is quantised already: layer '3' is torch\.ao\.nn\.quantized\..* Give the float model .*",
    ),
    "quantised": (lambda: sd.quantize(NET, X), r"^the model is quantised already\. Compile it: sordino\.compile\(quantised\)\.$"),
    "lazy": (
        lazy,
        r"^the model is not initialised: 0\.weight, 0\.bias, 2\.weight and 1 more have no shape yet .* Call it once, model\(example\), .*",
    ),
    "meta": (
        lambda: net().to("meta"),
        r"^the model has no weights: 0\.weight, 0\.bias, 3\.weight and 1 more are on the device meta\. .*",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NO_MODELS)
def test_what_is_no_model_is_refused(name):
    make, message = NO_MODELS[name]
    for use in (sd.check, sd.quantize, sd.prepare_qat):
        with pytest.raises(sd.InputError, match=message):
            use(make(), X)


@pytest.mark.filterwarnings("ignore")
def test_remedies_for_what_is_no_model():
    initialised = lazy()
    initialised(X)
    filled = net().to("meta").to_empty(device="cpu")
    filled.load_state_dict(NET.state_dict())
    assigned = net().to("meta")
    assigned.load_state_dict(NET.state_dict(), assign=True)
    scripted = net()
    scripted.load_state_dict(torch.jit.script(NET).state_dict())
    for model in (initialised, filled, assigned, scripted):
        assert sd.check(model, X[:1]).ok


def test_a_refused_shape_names_the_layer_and_what_it_was_given():
    text = r"^Sequential does not take the example \(shape \(1, 3, 8, 8\)\): layer '0' \(Conv2d\(1, 4, .* was given shape \(.*3, 8, 8\): .*1 channels.*"
    with pytest.raises(sd.InputError, match=text):
        sd.check(NET, torch.zeros(1, 3, 8, 8))
    with pytest.raises(sd.InputError, match=r"layer '3' \(Linear\(in_features=36, .* was given shape \(.*64\): .*"):
        sd.check(NET, torch.zeros(1, 1, 10, 10))


def test_a_batch_that_the_model_fixes_is_refused_and_the_remedies_work():
    fixed = Around(lambda m, x: m.n[3](m.n[1](m.n[0](x)).view(4, 36)))
    with pytest.raises(
        sd.InputError, match=r"^Around takes batches of 4 images only, .* x\.flatten\(1\) in place of x\.view\(4, -1\); .*"
    ):
        sd.check(fixed, X[:4])
    assert sd.check(Around(lambda m, x: m.n[3](m.n[1](m.n[0](x)).flatten(1))), X[:4]).ok
    assert sd.check(exported(2, True), X[:4]).ok


@pytest.mark.filterwarnings("ignore")
def test_the_model_is_left_as_it_was():
    model = Around(counting, net()).half().train()
    before = copy.deepcopy(model.state_dict())
    assert sd.check(model, X[:1].half()).ok
    assert model.training and model.n[0].weight.dtype == torch.float16
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in model.state_dict().items())


def test_weights_that_are_tied_stay_one():
    model = Tied().half()
    graph = capture(model, X[:1])
    assert model.a.weight is model.b.weight
    assert len({id(p) for n, p in graph.named_parameters() if "weight" in n}) == 1


def test_a_call_keeps_constants_and_order():
    call, inputs = call_of(as_module(Keywords()), {"mask": None, "x": X[:2]})
    assert [tuple(t.shape) for t in inputs] == [(2, 1, 8, 8)]
    args, kwargs = call.arguments(inputs)
    assert args == () and kwargs["mask"] is None and torch.equal(kwargs["x"], X[:2])


def test_batches_of_another_form_are_refused():
    with pytest.raises(
        sd.InputError,
        match=r"^calibration batch 1 has another form than what came before it: shape .* Give all batches in one form\.$",
    ):
        sd.quantize(dict_input, [{"image": X}, X])


def test_summaries_are_short():
    quantised = sd.quantize(NET, X)
    program = sd.compile(quantised)
    report = sd.check(NET, X[:1])
    for what in (quantised, quantised.graph, program, report):
        assert len(repr(what)) < 160 and "\n" not in repr(what)
    assert repr(quantised) == "QuantizedModel('Sequential', 4 layers, 144 weights, input (N, 1, 8, 8), arch='ulx3s-85f')"


def branch(m, x):
    return m.n(x) if x.sum() > 0 else m.n(-x)


def test_nothing_is_printed_before_a_refusal(capfd):
    for use in (sd.check, sd.quantize):
        with pytest.raises(sd.CompileError, match=r"^torch\.export cannot trace Around"):
            use(Around(branch), X)
    assert capfd.readouterr() == ("", "")


def test_remedies_for_a_branch_on_data():
    with pytest.raises(
        sd.CompileError, match=r".* compute both sides and choose with torch\.where, or decide before the model is called\.$"
    ):
        sd.check(Around(branch), X[:1])
    with pytest.raises(
        sd.CompileError,
        match=r"^torch\.export cannot trace Around \(test_inputs\.py:\d+\): NumPy is not traced: use operators of torch in forward, .*",
    ):
        sd.check(Around(lambda m, x: m.n(torch.from_numpy(x.numpy() * 2))), X[:1])
    assert sd.check(Around(lambda m, x: m.n(x * 2)), X[:1]).ok


CHECKPOINTS = {
    "plain": lambda s: s,
    "nested": lambda s: {"epoch": 3, "model": s},
    "nested twice": lambda s: {"checkpoint": {"state_dict": s}, "best": 0.5},
    "module.": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {"loss.weight": torch.ones(3), **{f"model.{k}": v for k, v in s.items()}}, "epoch": 1},
    "with an optimizer": lambda s: {"optimizer": {"state": {}, "step": torch.ones(1)}, "weights": s},
    "averaged": lambda s: {"n_averaged": torch.ones(()), **{f"module.{k}": v for k, v in s.items()}},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_found_in_a_checkpoint(name, tmp_path):
    for load in (load_weights, zoo.load_checkpoint):
        model = net()
        with torch.no_grad():
            model[0].weight.zero_()
        torch.save(CHECKPOINTS[name](NET.state_dict()), tmp_path / "c.pt")
        load(model, tmp_path / "c.pt")
        assert all(torch.equal(v, NET.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, {"model": {"epoch": 3}}])
def test_a_checkpoint_without_weights_is_refused(held, tmp_path):
    torch.save(held, tmp_path / "c.pt")
    with pytest.raises(sd.InputError, match=r"c\.pt: holds no weights\. Expected a dictionary from names to tensors, .*"):
        load_weights(net(), tmp_path / "c.pt")


@pytest.mark.parametrize("make", [lambda: nn.Sequential, lambda: NET.state_dict(), lambda: None, lambda: lambda x: NET(x)])
def test_sparsify_takes_modules(make):
    with pytest.raises(
        sd.InputError, match=r"^sparsify: layers are replaced in a torch\.nn\.Module; found .*\. Give the module itself\.$"
    ):
        sd.sparsify(make(), "l1")


def test_a_fixed_batch_of_a_half_model_is_named():
    fixed = Around(lambda m, x: m.n[3](m.n[1](m.n[0](x)).view(4, 36)), net()).half()
    with pytest.raises(sd.InputError, match=r"^Around takes batches of 4 images only, "):
        sd.check(fixed, X[:4].half())
