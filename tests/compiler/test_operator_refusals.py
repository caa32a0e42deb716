"""What is not supported is refused by name, place, limit and remedy; all of it at once."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sordino_compiler.inspection import inspect, provisional_graph
from sordino_compiler.operators_page import operators_page
from sordino_compiler.ops import OPERATORS
from sordino_hw.spec.arch import preset
from sordino_hw.spec.errors import CompileError, InputError

torch.set_num_threads(1)
X = torch.rand(1, 4, 8, 8)
ORDER = torch.randperm(256).tolist()
HERE = r"test_operator_refusals\.py:\d+"


class Model(nn.Module):
    """`between`: a convolution reads the result, so that the host cannot run the operators before it."""

    def __init__(self, function, between=False):
        super().__init__()
        self.between = between
        self.mix = nn.Parameter(torch.randn(4, 32, 3, 3))
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(8, 5)
        self.function = function

    def forward(self, x):
        y = self.function(self, x)
        return F.conv2d(y, self.mix[:, : y.shape[1]], padding=1) if self.between else y


REFUSED = {
    "softmax": (lambda m, x: m.conv(x).softmax(1), r"aten\.softmax 'softmax' \(HERE\): This operator is not supported\. The host computes softmax behind the last layer: .* It stands between layers: cut the model there\. .* as the input\."),
    "cumsum": (lambda m, x: m.conv(x).cumsum(1), r"aten\.cumsum 'cumsum' \(HERE\): This operator is not supported\. Use a mean, a sum or a maximum over fixed dimensions, such as x\.mean\(\(2, 3\)\), or reduce on the host, behind the model\. It stands between .*"),
    "gate": (lambda m, x: m.conv(x) * x, r"aten\.mul 'mul' \(HERE\): Architecture 'ulx3s-85f' multiplies activations by constants only\. .*products=true'.* leave the gate out\."),
    "a row and a column": (lambda m, x: F.max_pool2d(x, (8, 1)) + F.max_pool2d(m.conv(x), (1, 8)), r"aten\.add 'add' \(HERE\): The operands .* 1x1 convolution\. Found: shapes \(N, 4, 1, 8\) and \(N, 4, 8, 1\)\."),
    "maximum of a row and a column": (lambda m, x: torch.maximum(F.max_pool2d(x, (8, 1)), F.max_pool2d(x, (1, 8))), r"aten\.maximum 'maximum' \(HERE\): The operands .* Found: shapes \(N, 4, 1, 8\) and \(N, 4, 8, 1\)\."),
    "factors per position": (lambda m, x: m.conv(x) * torch.arange(64.0).view(1, 1, 8, 8), r"aten\.mul 'mul' \(HERE\): The factors of a product .* Found: a constant of shape \(1, 1, 8, 8\) with .*"),
    "a constant per channel inside a function": (lambda m, x: torch.pow(m.conv(x).relu() + 1, m.conv.bias.view(4, 1, 1)), r"aten\.pow '\w+' \(HERE\): An element-wise function .* not inside\. .* Found: a constant of shape \(4, 1, 1\)\."),
    "a function of two activations": (lambda m, x: torch.atan2(m.conv(x), x), r"aten\.atan2 'atan2' \(HERE\): An element-wise function .* Found: a function of 'conv2d' and 'x'\."),
    "quotient": (lambda m, x: x / m.conv(x), r"aten\.div 'div' \(HERE\): The divisor is a constant: .* Found: two activations\."),
    "cat of images": (lambda m, x: torch.cat([m.conv(x), x], 0), r"aten\.cat 'cat' \(HERE\): Concatenation .* behind the model\. Found: dim=0\."),
    "weights from data": (lambda m, x: F.conv2d(x, m.conv.weight * x.amax()), r"2 parts .* aten\.amax .* aten\.conv2d 'conv2d' \(HERE\): Weights and biases .* Found: weight computed from an input\."),
    "group norm": (lambda m, x: F.group_norm(m.conv(x), 2), r"aten\.group_norm 'group_norm' \(HERE\): This operator is not supported\. It computes statistics of each image: train with nn\.BatchNorm2d, .* in its place\."),
    "a view read in five dimensions": (lambda m, x: F.prelu(m.conv(x).unsqueeze(2), m.conv.bias[:1]).squeeze(2), r"aten\.prelu 'prelu' \(HERE\): Views are followed .* Found: 5 dimensions, the batch included, in \('s\d+', '4', '1', '8', '8'\)\."),
    "a batch that moves": (lambda m, x: F.avg_pool2d(m.conv(x).reshape(-1, 8, 8, 2), 2), r"aten\.avg_pool2d '\w+' \(HERE\): Views are followed .* Found: the batch is not the first dimension any more, in .*\."),
    "too many operations": (lambda m, x: F.max_pool2d(m.conv(x).flatten(1)[:, ORDER + ORDER[::-1]].view(-1, 1, 16, 32), 2), r"aten\.max_pool2d '\w+' \(HERE\): A rearrangement of values takes at most 256 operations.* Found: 512 operations from \(4, 8, 8\) to \(1, 16, 32\)\."),
    "positions from data": (lambda m, x: torch.index_select(m.conv(x), 1, x.mean((1, 2, 3)).long()), r".*aten\.index_select 'index_select' \(HERE\): A view's sizes and positions are constants.*"),
    "a product of two activations": (lambda m, x: (m.conv(x).flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(1).expand(-1, 4, -1, -1), r"aten\.matmul 'matmul' \(HERE\): One factor is an activation, .* Found: another form\."),
    "huge stride": (lambda m, x: F.max_pool2d(x, 1, 300), r"aten\.max_pool2d '\w+' \(HERE\): Stride and dilation .* Found: stride \[300, 300\]\."),
    "in-place on a view": (lambda m, x: (y := m.conv(x))[:, :2].relu_() + y[:, 2:], r"aten\.relu_ 'relu_' \(HERE\): an in-place operator on a view .* without the underscore\."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    function, message = REFUSED[name]
    with pytest.raises(CompileError) as error:
        provisional_graph(Model(function, between=True), X, "ulx3s-85f")
    assert re.fullmatch(message.replace("HERE", HERE), str(error.value)), str(error.value)


def test_all_problems_are_named_at_once():
    model = Model(lambda m, x: (m.conv(x).softmax(1) * x).cumsum(1), between=True)
    with pytest.raises(
        CompileError,
        match=r"^3 parts of the model cannot be compiled\. \(1\) aten\.softmax .* \(2\) aten\.mul .* \(3\) aten\.cumsum ",
    ):
        provisional_graph(model, X, "ulx3s-85f")
    report = inspect(model, X, preset("ulx3s-85f"))
    assert not report.supported
    assert [(n.operator, n.supported) for n in report.nodes] == [
        ("placeholder", True),
        ("aten.conv2d", True),
        ("aten.softmax", False),
        ("aten.mul", False),
        ("aten.cumsum", False),
        ("aten.conv2d", True),
    ]


def test_data_dependent_models_are_refused():
    model = Model(lambda m, x: m.conv(x) if x.sum() > 0 else x)
    with pytest.raises(
        CompileError,
        match=r"^torch\.export cannot trace Model \(test_operator_refusals\.py:\d+\): .*compute both sides and choose with torch\.where, .*",
    ):
        inspect(model, X)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((), r"^the example must be a tensor .*"),
        ([[1.0]], r"^the example must be a tensor .*"),
        (torch.zeros(8), r"^Model does not take the example \(shape \(8,\)\): layer 'conv' \(Conv2d\(4, .* was given shape .*"),
        (
            torch.zeros(1, 4, 8, 8, dtype=torch.complex64),
            r"^the example: a tensor \(torch\.complex64, .* Give a dense tensor of real numbers, .*",
        ),
    ],
)
def test_bad_examples(example, message):
    with pytest.raises(InputError, match=message):
        inspect(Model(lambda m, x: m.conv(x)), example)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model.train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert inspect(model, X).supported
    assert (model.training, model[1].training, model[2].training) == (True, False, True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_provisional_graph_has_the_shapes_and_the_zeros():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    with torch.no_grad():
        model[0].weight[3] = 0
    graph = provisional_graph(model, X, "ulx3s-85f")
    assert [(n.kind, n.out.name, n.out.shape, n.out.signed) for n in graph.nodes] == [
        ("input", "input", (4, 8, 8), False),
        ("conv", "0", (8, 4, 4), False),
        ("maxpool", "3", (8, 2, 2), False),
        ("flatten", "flatten", (32, 1, 1), False),
        ("conv", "5", (5, 1, 1), True),
    ]
    weight = graph.nodes[1].weight
    assert not weight[3].any() and (abs(weight[[0, 1, 2, 4, 5, 6, 7]].reshape(7, -1)).max(1) > 50).all()


def test_every_operator_has_its_row_and_every_rule_its_text():
    page = operators_page()
    for name, entry in OPERATORS.items():
        assert f"`{name}`" in page
        for constraint in entry.constraints:
            text = " ".join(constraint.__doc__.split())
            assert text.endswith(".") and text in page, constraint
