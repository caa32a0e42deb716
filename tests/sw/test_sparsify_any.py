"""`sparsify` on bounded, functional, repeated and smooth activations, and on networks of the zoo that have them."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sordino as sd
from sordino.nn import L1, METHODS, STAR, PlainReLU

MEMORY = sd.ArchConfig(act_depth=1 << 15, weight_depth=1 << 17, mask_depth=1 << 12, param_depth=1 << 13, state_depth=1 << 14)

CALLS = {
    "F.relu": (F.relu, None),
    "torch.relu": (torch.relu, None),
    "Tensor.relu": (torch.Tensor.relu, None),
    "inplace": (lambda x: F.relu(x, inplace=True), None),
    "relu6": (F.relu6, 6.0),
    "hardtanh": (lambda x: F.hardtanh(x, 0.0, 4.0), 4.0),
    "clamp": (lambda x: x.clamp(min=0), None),
    "clamp bounded": (lambda x: torch.clamp(x, 0, 2.5), 2.5),
    "clip": (lambda x: x.clip(0, 3), 3.0),
    "clamp_min": (lambda x: x.clamp_min(0.0), None),
}


class Calls(nn.Module):
    """Calls an activation as a function, twice, once through a helper method."""

    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(128, 10)
        self.act = (act,)  # hidden from the module tree

    def helper(self, x):
        return self.act[0](self.b(x))

    def forward(self, x):
        return self.f(F.max_pool2d(self.helper(self.act[0](self.a(x))), 2).flatten(1))


class Repeated(nn.Module):
    """One ReLU called twice in one forward method, on different widths."""

    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), nn.Linear(64, 10)
        self.relu = act

    def forward(self, x):
        return self.f(F.max_pool2d(self.relu(self.b(self.relu(self.a(x)))), 2).flatten(1))


def chain(act):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        act(),
        nn.Conv2d(8, 8, 3, padding=1),
        act(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def images(n=16, size=8, channels=1):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def layers(model):
    return {name: type(m).__name__ for name, m in sd.nn.sites(model)}


def exact(model, x, arch="ulx3s-85f"):
    """Quantises and compiles, and compares the integer graph, the golden and the timing model."""
    quantised = sd.quantize(model.eval(), x, arch=arch)
    program = sd.compile(quantised)
    assert sd.compare(sd.Accelerator(program), quantised.graph, x[:2])
    golden, timing = (sd.Accelerator(program, backend=b)(x[:2]) for b in ("golden", "timing"))
    for a, b in zip(*(y if isinstance(y, tuple | list) else [y] for y in (golden, timing)), strict=True):
        assert torch.equal(a, b)


# -- functions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_functions_get_layers(name):
    act, bound = CALLS[name]
    torch.manual_seed(0)
    model, x = Calls(act), images() * 4
    same = sd.sparsify(model, "relu", calibration=x)
    assert len(layers(same)) == 2 and set(layers(same).values()) == {"PlainReLU"}
    assert torch.equal(same(x), model(x.clone()))
    sparse = sd.sparsify(model, {"*_0": "l1", "*_1": ("star", {"quantile": 0.5})}, calibration=x)
    assert list(layers(sparse).values()) == ["L1", "STAR"]
    assert [r.bound for r in sparse.sparsification.replaced] == [bound, bound]
    assert all(isinstance(m, nn.Module) and not isinstance(m, L1 | STAR) for m in model.modules())
    sparse.train()(x)
    assert sd.nn.penalty(sparse) > 0


def test_a_functional_network_is_exact_and_survives_copies():
    torch.manual_seed(0)
    x = images(32)
    sparse = sd.sparsify(Calls(F.relu6), "star", calibration=x, quantile=0.5)
    exact(sparse, x)
    for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sd.sparsify(Repeated(nn.ReLU()), "star", calibration=x)))):
        assert len(layers(other)) == 2 and other(x).shape == (32, 10)
    other = copy.deepcopy(sparse)
    other.relu6_0.threshold.fill_(5.0)
    assert not torch.equal(other(x), sparse(x))


def test_functions_inside_a_module_of_the_network():
    x = images()
    inner = Calls(F.relu)
    outer = nn.Sequential(inner, nn.Linear(10, 8), nn.ReLU())
    sparse = sd.sparsify(outer, "l1", calibration=x)
    assert layers(sparse) == {"0.relu_0": "L1", "0.relu_1": "L1", "2": "L1"} and isinstance(sparse[0], Calls)


def test_an_overwritten_value_that_is_read_is_refused():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(4, 4), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.a(x)
            return self.act(y) + y

    with pytest.raises(sd.InputError, match=r"reads a value that an in-place activation has overwritten.*Activations: act\."):
        sd.sparsify(Overwrites(), "l1", calibration=torch.randn(8, 4))


# -- bounds and places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_is_kept_by_every_method(method):
    torch.manual_seed(0)
    x = images(32) * 8
    sparse = sd.sparsify(
        chain(lambda: nn.Hardtanh(0.0, 0.5)), method, calibration=x, **({"per": "layer"} if method == "dal" else {})
    )
    sparse.eval()
    tops, watched = [], copy.deepcopy(sparse)
    for _, layer in sd.nn.sites(watched):
        layer.register_forward_hook(lambda _m, _x, y: tops.append(float(y.detach().max())))
    watched(x)
    slack = max(float(m.theta.detach().abs().max()) / 2 if method == "dal" else 0.0 for _, m in sd.nn.sites(sparse))
    assert all(0.1 < top <= 0.5 + slack for top in tops)
    exact(sparse, x)


def test_one_module_in_several_places_gets_a_layer_for_each():
    act, x = nn.ReLU(), images()
    shared = nn.Sequential(nn.Conv2d(1, 4, 1), act, nn.Conv2d(4, 6, 1), act)
    assert layers(sd.sparsify(shared, "l1")) == {"1": "L1", "3": "L1"}
    sparse = sd.sparsify(Repeated(nn.ReLU()), "star", calibration=x, per="channel")
    assert layers(sparse) == {"relu.0": "STAR", "relu.1": "STAR"}
    assert sparse.relu.get_submodule("0").threshold.shape == (8,) and sparse.relu.get_submodule("1").threshold.shape == (4,)
    exact(sparse, images(32))
    assert layers(sd.sparsify(sparse, "l1")) == {"relu.0": "L1", "relu.1": "L1"}


def test_weights_of_an_own_network_with_calls_come_back(digits, tmp_path):
    from sordino.experiments.own import OwnRecipe, load_own_weights, save_own_weights, train_own

    torch.manual_seed(0)
    data = type(digits)(*(tuple(t[:64] for t in part) for part in (digits.train, digits.validation, digits.test)))
    recipe = OwnRecipe(epochs=1, method="star", sparse_epochs=2)
    trained = train_own(Calls(F.relu), data, recipe, sd.PRESETS["ulx3s-85f"], progress=False)
    assert layers(trained.model) == {"relu_0": "STAR", "relu_1": "STAR"}
    save_own_weights(trained, tmp_path / "own.safetensors")
    again = load_own_weights(Calls(F.relu), tmp_path / "own.safetensors")
    assert torch.equal(again(data.test[0]), trained.model.eval()(data.test[0]))


# -- smooth activations ------------------------------------------------------------------------------------------------

SMOOTH = {"silu": nn.SiLU, "hardswish": nn.Hardswish, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU}


@pytest.mark.parametrize("kind", SMOOTH)
def test_smooth_activations_are_named_and_replaced_on_request(kind):
    model = chain(SMOOTH[kind])
    with pytest.raises(sd.InputError, match=rf"no ReLU to replace; its activations are '{kind}'\. Give replace=\['{kind}'\]"):
        sd.sparsify(model, "l1")
    assert layers(sd.sparsify(model, "l1", replace=[kind])) == {"1": "L1", "3": "L1"}
    with pytest.warns(
        UserWarning, match=rf"replaced 1 activations and left 1: {kind} in 1 places \(3\): not a ReLU; replace='{kind}'"
    ):
        sparse = sd.sparsify(model, "l1", replace={"1": "now"})
    assert [(r.path, r.was, r.method) for r in sparse.sparsification.replaced] == [("1", kind, "l1")]
    assert [entry.path for entry in sparse.sparsification.left] == ["3"]
    assert str(sparse.sparsification).splitlines()[0] == "1 activations replaced, 1 left"


@pytest.mark.parametrize(
    "act", [F.silu, F.hardswish, lambda x: F.gelu(x, approximate="tanh"), lambda x: F.leaky_relu(x, 0.2)], ids=lambda f: f.__name__
)
def test_smooth_functions_blend_from_what_they_were(act):
    x = images()
    model = Calls(act)
    sparse = sd.sparsify(model, "l1", calibration=x, replace={"all": "blend"})
    torch.testing.assert_close(sparse(x), model(x))


def test_blending_moves_from_the_activation_to_the_layer(digits, tmp_path):
    torch.manual_seed(0)
    model, data = chain(nn.PReLU), [tuple(t[:96] for t in part) for part in (digits.train, digits.validation)]
    x = data[0][0]
    make = lambda: sd.sparsify(model, "star", calibration=x, replace={"prelu": "blend"})  # noqa: E731
    sparse = make()
    torch.testing.assert_close(sparse.eval()(x), model.eval()(x))
    with pytest.raises(sd.InputError, match=r"has replaced PReLU by 0% only\. Go on training with before_epoch=sordino\.Blend"):
        sd.quantize(sparse, x)
    levels = []

    class Watch(sd.Blend):
        def __call__(self, model, epoch):
            super().__call__(model, epoch)
            levels.append(model[1].level)

    sd.train.fit(sparse, *data, 3, progress=False, before_epoch=Watch(2))
    assert levels == pytest.approx([1 / 3, 2 / 3, 1.0])
    threshold = sparse[1].threshold
    torch.testing.assert_close(sparse[1](x), torch.where(x >= threshold, x, 0).relu())
    again = make()
    again.load_state_dict(torch.load(_saved(sparse), weights_only=True))
    assert again[1].level == 1.0 and torch.equal(again.eval()(x), sparse(x))
    exact(sparse, x)


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize(
    ("replace", "text"),
    [
        ("swish", r"sparsify: replace='swish' is neither 'all' nor one of silu, .* it matches no such activation; there are 1, 3"),
        ({"silu": "soon"}, r"sparsify: replace=\{'silu': \.\.\.\} must be 'now', 'blend' or None, not 'soon'"),
    ],
)
def test_refusals_of_replace(replace, text):
    with pytest.raises(sd.InputError, match=f"^{text}$"):
        sd.sparsify(chain(nn.SiLU), "l1", replace=replace)


# -- the zoo -----------------------------------------------------------------------------------------------------------


NETWORKS = {
    "mobilenet_v2": ({"num_classes": 4, "width_mult": 0.25}, 64, 35, None),
    "yolox_nano": ({"num_classes": 2}, 64, None, {"silu": "blend"}),
    "ssd300_vgg16": ({"num_classes": 2, "normalise": False}, 300, 23, None),
    "deeplabv3plus_mobilenet": ({"num_classes": 2, "upsampling": "nearest"}, 64, 42, None),
}


def norms(model):
    """Makes every batch norm take its statistics from the batches that come, which random weights need to have any signal."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
        norm.reset_running_stats()


def fine_tuned(name, method):
    options, size, count, replace = NETWORKS[name]
    torch.manual_seed(0)
    model, x = sd.zoo.model(name, **options), images(1 if size > 64 else 8, size, 3)
    with torch.no_grad():
        norms(model)
        model.train()(x)
    sparse = sd.sparsify(model, method, calibration=x, replace=replace, **({"per": "layer"} if method == "dal" else {}))
    assert not sparse.sparsification.left and len(sparse.sparsification.replaced) == (count or len(layers(sparse)))
    assert all(isinstance(m, sd.nn.SparseActivation) for _, m in sd.nn.sites(sparse))
    optimiser = torch.optim.SGD(sparse.parameters(), 1e-4)
    sparse.train()
    blend = sd.Blend(1)
    for step in range(3):
        blend(sparse, step)
        if step == 1:
            norms(sparse)
        y = sparse(x)
        loss = sum(t.square().mean() for t in torch.utils._pytree.tree_leaves(y))
        extra = sd.nn.penalty(sparse)
        (loss if extra is None else loss + 1e-6 * extra).backward()
        optimiser.step()
    assert math.isfinite(loss.item())
    return sparse.eval(), x


@pytest.mark.parametrize(
    ("name", "method"),
    [("mobilenet_v2", "star")]
    + [
        pytest.param(name, method, marks=pytest.mark.slow)
        for name in NETWORKS
        for method in METHODS
        if (name, method) != ("mobilenet_v2", "star")
    ],
)
def test_networks_of_the_zoo(name, method):
    sparse, x = fine_tuned(name, method)
    if method == "dal" and name in ("yolox_nano", "deeplabv3plus_mobilenet"):  # whose steps are the scales of what is concatenated
        with pytest.raises(sd.CompileError, match="concatenated share one scale, but the model fixes different steps"):
            exact(sparse, x, MEMORY)
    elif name != "ssd300_vgg16":  # its 300 x 300 maps are larger than any memory of the array
        exact(sparse, x, MEMORY)


def test_deeplab_names_every_activation():
    model = sd.zoo.model("deeplabv3plus_mobilenet").eval()
    assert len(sd.sparsify(model, "relu").sparsification.replaced) == 42
    assert isinstance(sd.sparsify(model, "relu").backbone.low_level_features[0][2], PlainReLU)
