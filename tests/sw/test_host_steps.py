"""The edges of a network on the host: where the cut is, what the steps compute, in which structure results come back."""

import collections
import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn
from torch.utils import _pytree as pytree

import sordino as sd
from sordino.cli import app as cli
from sordino.report.schema import validate
from sordino.runtime.edges import Edges, restored
from sordino_compiler.capture import capture
from sordino_compiler.edge_steps import edges, entering, torch_edges
from sordino_compiler.edges import cut_at, cut_edges
from sordino_compiler.fx.nodes import is_constant, is_size
from sordino_hw.spec.errors import CompileError, InputError
from sordino_hw.spec.host import restore

torch.set_num_threads(1)
Boxes = collections.namedtuple("Boxes", "centre size")


class Net(nn.Module):
    """`before`, two convolutions, and `after`: functions of the module and a tensor."""

    def __init__(self, before, after):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.head = nn.Linear(12, 10)
        self.norm, self.inner = nn.LayerNorm(10), nn.Linear(10, 4)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("grid", torch.arange(12.0).view(1, 3, 4, 1))
        self.register_buffer("bins", torch.arange(12.0).view(1, 12, 1, 1))
        self.before, self.after = before, after

    def forward(self, x):
        return self.after(self, self.b(F.relu(self.a(self.before(self, x)))))


def same(m, x):
    return x


def logits(m, y):
    return m.head(y.mean((2, 3)))


def yolo(m, y):
    n = y.shape[0]
    y = y.view(n, 3, 4, 4, 4).permute(0, 1, 3, 4, 2)
    xy, wh = y[..., :2].sigmoid(), y[..., 2:].exp()
    xy = (xy * 2 - 0.5 + m.grid.unsqueeze(-1)) * 8
    return torch.cat([xy, wh * 4], -1).view(n, -1, 4)


def attention(m, y):
    q, k, v = y.flatten(2).transpose(1, 2).reshape(-1, 16, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
    a = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
    return (a @ v).transpose(1, 2).reshape(-1, 16, 4)


def spread(x):
    return x.reshape(x.shape[0], 8, 8, 3)


FRONT = {
    "0..255": lambda m, x: x / 255,
    "mean and deviation": lambda m, x: (x / 255 - m.mean) / 0.2,
    "2x-1": lambda m, x: 2 * x - 1,
    "negative": lambda m, x: 1 - x,
    "nhwc": lambda m, x: spread(x).permute(0, 3, 1, 2),
    "nhwc, 0..255": lambda m, x: spread(x).permute(0, 3, 1, 2) / 255.0,
    "bgr": lambda m, x: x[:, [2, 1, 0]],
    "flip": lambda m, x: x.flip(1),
    "gray": lambda m, x: x[:, :1].expand(-1, 3, -1, -1),
    "no channels": lambda m, x: x[:, 0].unsqueeze(1).repeat(1, 3, 1, 1),
    "cast": lambda m, x: x.to(torch.float32).contiguous() * 0.5,
    "casts that do nothing": lambda m, x: x.to("cpu").float(),
    "crop": lambda m, x: x[:, :, 1:7, 2:],
    "resize": lambda m, x: F.interpolate(x, (6, 6), mode="bilinear"),
    "roll": lambda m, x: x.roll(2, 3),
    "focus": lambda m, x: F.pixel_unshuffle(x[:, :, :, :], 2)[:, 1:4],
    "slices with a step": lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2]], 1)[:, 1:4],
    "norm of the image": lambda m, x: F.normalize(x.flatten(1), dim=1).view_as(x),
    "square root": lambda m, x: x.abs().sqrt().sub(0.3),
}
BACK = {
    "softmax": lambda m, y: logits(m, y).softmax(-1),
    "log_softmax": lambda m, y: F.log_softmax(logits(m, y), 1),
    "sigmoid and threshold": lambda m, y: logits(m, y).sigmoid() > 0.5,
    "argmax": lambda m, y: logits(m, y).argmax(1),
    "argmax of maps": lambda m, y: y.argmax(1, keepdim=True),
    "topk": lambda m, y: logits(m, y).softmax(1).topk(3),
    "max": lambda m, y: logits(m, y).max(1),
    "max over all": lambda m, y: y.flatten(1).max(1)[0],
    "sort": lambda m, y: logits(m, y).sort(1, descending=True),
    "squeeze": lambda m, y: logits(m, y)[:, :1].squeeze(1),
    "view(-1)": lambda m, y: logits(m, y)[:, :1].view(-1),
    "flatten": lambda m, y: logits(m, y).flatten(),
    "joined": lambda m, y: y.permute(0, 2, 3, 1).reshape(-1, 12).softmax(-1),
    "select": lambda m, y: logits(m, y)[:, 0],
    "five dimensions": lambda m, y: y.view(-1, 3, 4, 4, 4).permute(0, 1, 3, 4, 2).contiguous(),
    "ssd": lambda m, y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4),
    "yolo": yolo,
    "expectation": lambda m, y: F.conv2d(y.softmax(1), m.bins),
    "attention": attention,
    "attention of torch": lambda m, y: F.scaled_dot_product_attention(*(y.flatten(2).transpose(1, 2) for _ in range(3))),
    "normalize": lambda m, y: F.normalize(logits(m, y)),
    "layer norm": lambda m, y: m.norm(logits(m, y)),
    "layer norm, linear": lambda m, y: m.inner(m.norm(logits(m, y))),
    "group norm": lambda m, y: F.group_norm(y, 3),
    "logsumexp": lambda m, y: logits(m, y).logsumexp(1),
    "deviation": lambda m, y: y.std((2, 3)) + y.var(1).mean((1, 2)).unsqueeze(1),
    "where": lambda m, y: torch.where(y > 0.1, y, torch.zeros_like(y)),
    "masked": lambda m, y: y.masked_fill(y < 0, -1.0),
    "bilinear": lambda m, y: F.interpolate(y, scale_factor=2, mode="bilinear").argmax(1),
    "bilinear, corners": lambda m, y: F.interpolate(y, (7, 5), mode="bilinear", align_corners=True),
    "nearest": lambda m, y: F.interpolate(y, (7, 5)),
    "reflect": lambda m, y: F.pad(y, (1, 2, 0, 1), mode="reflect"),
    "cumsum": lambda m, y: y.cumsum(1),
    "gather": lambda m, y: logits(m, y).gather(1, logits(m, y).argsort(1)[:, :3]),
    "pixel shuffle": lambda m, y: F.pixel_shuffle(y.softmax(1), 2),
    "several": lambda m, y: torch.stack([logits(m, y), logits(m, y) * 2], 1),
    "split": lambda m, y: [p.amax((2, 3)) for p in y.softmax(1).split([5, 7], 1)],
    "distance": lambda m, y: (logits(m, y) ** 2).sum(1).sqrt() / 3,
    "cosine": lambda m, y: (y.mean((2, 3)) / y.mean((2, 3)).norm(dim=1, keepdim=True)) @ m.head.weight.t(),
    "hard": lambda m, y: F.hardswish(y.softmax(1)) + F.silu(y.amax(1, keepdim=True)) + F.elu(y.exp()),
}
STRUCTURES = {
    "dict": lambda m, y: {"logits": logits(m, y), "map": y},
    "nested": lambda m, y: ((logits(m, y), [y, None]), {"n": 3, 4: "text"}),
    "list of one": lambda m, y: [logits(m, y)],
    "tuple of one": lambda m, y: (logits(m, y),),
    "named": lambda m, y: Boxes(y[:, :2].exp(), y[:, 2:]),
    "the same twice": lambda m, y: (y, y),
    "the same in two shapes": lambda m, y: (y.flatten(1), y, y.flatten(2)),
    "with a constant": lambda m, y: (logits(m, y), m.grid * 2),
    "ordered": lambda m, y: collections.OrderedDict(b=y, a=logits(m, y).softmax(1)),
}
CASES = {
    **{f"front: {k}": (f, logits) for k, f in FRONT.items()},
    **{f"back: {k}": (same, f) for k, f in BACK.items()},
    **{f"structure: {k}": (same, f) for k, f in STRUCTURES.items()},
    "both": (FRONT["mean and deviation"], BACK["yolo"]),
}


def images(scale=1.0):
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * scale


def model_of(name):
    before, after = CASES[name]
    return Net(before, after).eval()


def equal(a, b):
    """The same structure, and floats within what float32 sums differ by."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
        return torch.allclose(a, b, rtol=1e-5, atol=1e-5) if a.is_floating_point() else torch.equal(a, b)
    return a == b


def require_same(found, expected):
    """Structure, shapes, dtypes and values. Named tuples are compared by their fields."""
    if isinstance(expected, tuple) and not isinstance(found, list):
        assert getattr(found, "_fields", None) == getattr(
            expected, "_fields", getattr(type(expected), "__match_args__", None) or None
        )
        found, expected = list(found), list(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert type(found) is list and len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            require_same(f, e)
        return
    assert equal(found, expected), (found, expected)


def around_convolutions(module):
    """The cut with nothing but the two convolutions on the array, whatever else it could run."""
    inside = {"conv2d", "relu", "conv2d_1"}
    order = [n for n in module.graph.nodes if n.op == "call_function" and not is_size(n) and not is_constant(n)]
    first = next(n for n in order if n.name == "conv2d")
    before = {n for n in order if order.index(n) < order.index(first)}
    return cut_at(module, before, [n for n in order if n.name not in inside and n not in before])


@pytest.mark.parametrize("name", CASES)
def test_steps_compute_what_the_model_does(name):
    """The float model in three parts, the edges in NumPy and in PyTorch, equals the model."""
    model, x = model_of(name), images(255 if "255" in name else 1)
    cut = around_convolutions(capture(model, x))
    assert not cut.problems and [n.name for n in cut.exits] == ["conv2d_1"], [str(p) for p in cut.problems]
    inputs, outputs = (
        [f"in{i}" if n.op != "placeholder" else str(n.target) for i, n in enumerate(cut.entries)],
        [f"out{i}" for i in range(len(cut.exits))],
    )
    found = edges(cut, inputs, outputs)
    with torch.no_grad():
        expected = model(x)
        values = found.host.enter({found.host.inputs[0].name: x.numpy()})
        core = cut.core(*(torch.from_numpy(np.array(values[n])) for n in inputs))
        core = core if isinstance(core, tuple) else (core,)
        left = found.host.leave(values, {n: t.numpy() for n, t in zip(outputs, core, strict=True)})
        trained = torch_edges(cut)(cut.core, x)
        assert len(entering(cut)(x)) == len(cut.entries)

    def value(leaf):
        y = torch.from_numpy(np.array(left.get(leaf.name, found.host.constants.get(leaf.name))))
        return y.flatten(0, 1) if leaf.joined else y

    require_same(restore(found.host.returns, value), expected)
    assert all(map(equal, pytree.tree_leaves(trained), pytree.tree_leaves(expected)))
    assert type(trained) is type(expected)


SHORT = ["front: mean and deviation", "front: nhwc, 0..255", "front: bgr", "front: casts that do nothing", "back: softmax", "back: argmax", "back: topk", "back: flatten",
         "back: joined", "back: yolo", "back: attention", "structure: nested", "structure: the same in two shapes", "both"]  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_exact_and_near(name, tmp_path):
    """The steps of the file on the golden model equal those on the integer graph, bit by bit; the float model is near."""
    model, x = model_of(name), images(255 if "255" in name else 1)
    quantised = sd.quantize(model, x)
    sd.compile(quantised).save(tmp_path / "net.sdn")
    accelerator = sd.Accelerator(tmp_path / "net.sdn")
    program = accelerator.program
    made = accelerator(x)
    around = Edges(program)
    values, integers = around.enter(around.check((x,)))
    graph = quantised.graph.run(integers)
    reference = restored(program.edges, around.leave(values, {n: graph[n] for n in program.outputs}), x)
    for a, b in zip(pytree.tree_leaves(made), pytree.tree_leaves(reference), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert sd.compare(accelerator, quantised.graph, x) and sd.compare(quantised, quantised, x)
    fidelity = sd.compare(model, quantised, x)
    assert fidelity, str(fidelity)
    with torch.no_grad():
        expected, torchs = model(x), quantised(x)
    for a, b, c in zip(*map(pytree.tree_leaves, (made, expected, torchs)), strict=True):
        if not isinstance(a, torch.Tensor):
            assert a == b == c
            continue
        assert (a.shape, a.dtype) == (b.shape, b.dtype) == (c.shape, c.dtype)
        if a.is_floating_point():
            assert 10 * torch.log10(b.square().mean() / (a - b).square().mean()) > 28, name
    numpy = accelerator(x.numpy())
    assert all(isinstance(y, np.ndarray) for y in pytree.tree_leaves(numpy) if hasattr(y, "shape"))


def test_input_arithmetic_takes_no_memory():
    """x / 255 in forward costs no cycle and no word: the program is that of the network without it."""
    x = images()
    plain = sd.compile(sd.quantize(Net(same, logits).eval(), x))
    scaled = sd.compile(sd.quantize(Net(FRONT["0..255"], logits).eval(), x * 255))
    assert [s.imem.tolist() for s in plain.segments] == [s.imem.tolist() for s in scaled.segments]
    assert [t.scale for t in plain.tensors.values()] == pytest.approx([t.scale for t in scaled.tensors.values()], rel=1e-5)
    assert plain.host is None and len(scaled.host.before) == 1


def test_a_focus_layer_takes_no_memory_of_the_array():
    class Focus(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(12, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1))

    torch.manual_seed(0)
    model, x = Focus().eval(), torch.rand(4, 3, 48, 48)
    program = sd.compile(sd.quantize(model, x))
    assert program.inputs == ["cat"] and len(program.layers) == 1
    y = sd.Accelerator(program)(x)
    with torch.no_grad():
        assert 10 * torch.log10(y.square().mean() / (y - model(x)).square().mean()) > 30


def test_what_the_array_can_run_stays_there():
    cut = cut_edges(capture(Net(same, lambda m, y: logits(m, y).sigmoid()).eval(), images()))
    assert cut.whole and not cut.after  # a sigmoid is a table
    cut = cut_edges(capture(Net(same, lambda m, y: (y.sigmoid() * 2 - 0.5).argmax(1)).eval(), images()))
    assert [n.name for n in cut.after] == ["sigmoid", "mul", "sub", "argmax"]  # in full precision, because the host reads it


MIDDLE = {
    "softmax": (lambda m, y: m.a(y.softmax(1)[:, :3]), r"aten\.softmax 'softmax' .* cut the model there\. One model returns the result of aten\.conv2d"),
    "attention": (lambda m, y: m.a(attention(m, y).transpose(1, 2).reshape(-1, 4, 4, 4)[:, :3]), r"cut the model there"),
    "too much for the host": (lambda m, y: F.linear(y.flatten(1).softmax(1), torch.ones(1000, 192)), r"aten\.softmax 'softmax'"),
    "across the batch": (lambda m, y: logits(m, y).softmax(0), r"aten\.softmax 'softmax' "),
    "the batch is returned": (lambda m, y: (y, y.shape[0]), r"a size that depends on the batch"),
    "nothing on the array": (None, r"Nothing is left for the array"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLE)
def test_refusals(name):
    after, message = MIDDLE[name]

    class Bare(nn.Module):
        def forward(self, x):
            return x.softmax(1)

    model = Bare() if after is None else Net(same, after).eval()
    with pytest.raises(CompileError, match=message):
        sd.quantize(model, images())
    report = sd.check(model, images())
    assert not report.ok and not report.supported


def test_inputs_that_do_not_fit_and_values_that_are_not_finite():
    accelerator = sd.Accelerator(
        sd.compile(sd.quantize(Net(lambda m, x: x / x.amax((1, 2, 3), keepdim=True), logits).eval(), images() + 1))
    )
    with pytest.raises(InputError, match=r"^input 'x' has shape \(2, 3, 8\); it must be \[batch, 3, 8, 8\]"):
        accelerator(np.zeros((2, 3, 8), np.float32))
    with pytest.raises(InputError, match=r"^0 inputs given; the network has 1: x$"):
        accelerator()
    with pytest.raises(
        InputError, match=r"^the host's steps before the array make values of 'div' that are NaN or infinite\. Check"
    ):
        accelerator(np.zeros((2, 3, 8, 8), np.float32))


def test_an_input_that_only_the_host_reads():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x, offset):
            return self.conv(x).amax((2, 3)).softmax(1) + offset, offset

    x, offset = images(), torch.arange(24.0).view(6, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantised = sd.quantize(Two().eval(), [(x, offset)])
    accelerator = sd.Accelerator(sd.compile(quantised))
    y, back = accelerator(x, offset)
    assert torch.equal(back, offset) and torch.allclose((y - offset).sum(1), torch.ones(6), atol=1e-5)
    assert accelerator.program.inputs == ["x"] and len(accelerator.program.host.inputs) == 2
    with pytest.raises(InputError, match=r"^input 'offset' has 2 images, 'x' has 6; the batches must be equal\.$"):
        accelerator(x, offset[:2])


def test_chunks_do_not_change_results(monkeypatch):
    accelerator = sd.Accelerator(sd.compile(sd.quantize(model_of("back: joined"), images())))
    whole = accelerator(images())
    monkeypatch.setattr("sordino_hw.spec.host.steps.MOST_IMAGES", 4)
    assert torch.equal(accelerator(images()), whole)


def test_training_goes_through_the_edges():
    model = Net(FRONT["mean and deviation"], lambda m, y: m.norm(logits(m, y))).train()
    trained = sd.prepare_qat(model, images(255))
    optimiser = torch.optim.SGD(trained.parameters(), 0.1)
    trained(images(255)).square().mean().backward()
    optimiser.step()
    weight = trained.edges.after.norm.weight
    assert weight.grad is not None and not torch.equal(weight, model.norm.weight)
    quantised = sd.finish_qat(trained)
    found = quantised.edges.host.constants.values()
    assert any(np.array_equal(c.ravel(), weight.detach().numpy()) for c in found)
    assert torch.equal(model.norm.weight, torch.ones(10))


def test_commands(tmp_path, monkeypatch):
    """check, disasm and run tell of the steps, and write each part of what is returned."""
    x = images(255)
    program = sd.compile(
        sd.quantize(
            Net(FRONT["0..255"], lambda m, y: {"p": logits(m, y).softmax(1), "best": [logits(m, y).argmax(1), None]}).eval(), x
        )
    )
    program.save(tmp_path / "net.sdn")
    np.save(tmp_path / "x.npy", x.numpy())
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(cli, ["run", "net.sdn", "x.npy", "-o", "y.npz", "--json", "y.json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    saved = np.load(tmp_path / "y.npz")
    assert sorted(saved) == ["best.0", "p"] and saved["best.0"].dtype == np.int64 and np.allclose(saved["p"].sum(1), 1)
    text = (tmp_path / "y.json").read_text()
    validate(text, "run")
    document = json.loads(text)
    assert [(r["name"], r["dtype"], r["value"]) for r in document["returned"]] == [
        ("p", "float32", None),
        ("best.0", "int64", None),
        ("best.1", "literal", None),
    ]
    listed = CliRunner().invoke(cli, ["disasm", "net.sdn"], catch_exceptions=False).output
    assert "# host, before the array: 1 steps, 192 element operations an image" in listed
    assert "softmax = softmax(head, dim=0, log=False) -> float32 [N, 10]; 40 operations; softmax (test_host_steps.py:" in listed
    assert "# returned: {'p': softmax, 'best': [argmax, None]}" in listed


def test_report_lists_the_steps_and_what_they_cost():
    report = sd.check(model_of("both"), images(255))
    assert report.ok and {s.side for s in report.host} == {"before", "after"}
    assert all(s.milliseconds > 0 for s in report.host) and report.host[0].operations == 192
    assert "Steps on the host" in str(report) and "host step before the array" in str(report)
    assert len(report.to_dict()["host"]) == len(report.host)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["back: yolo", "front: nhwc, 0..255"])
def test_the_gateware_returns_the_same(name):
    """Host steps around the RTL and around the golden model: the same bits."""
    x = images(255 if "255" in name else 1)
    program = sd.compile(sd.quantize(model_of(name), x, arch="icebreaker"))
    with sd.Accelerator(program, backend="verilator") as rtl:
        assert sd.compare(rtl, sd.Accelerator(program), x[:2])
