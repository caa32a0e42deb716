"""What a refusal tells the user to do: a remedy for every operator of ATen, and models that follow it compile."""

import re
from fnmatch import fnmatchcase

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sordino_compiler.driver import compile_graph
from sordino_compiler.fx.problems import Problem, listed
from sordino_compiler.inspection import inspect, provisional_graph
from sordino_compiler.ops import OPERATORS, remedy
from sordino_compiler.ops.remedies import REMEDIES
from sordino_hw.spec.errors import CompileError

torch.set_num_threads(1)
X = torch.rand(1, 4, 8, 8)
ATEN = sorted({n.partition("::")[2].partition(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")})


# -- the table -------------------------------------------------------------------------------------------------------


def test_every_public_operator_of_aten_is_supported_or_has_a_remedy():
    assert len(ATEN) > 1000
    public = [n for n in ATEN if not n.startswith("_")]
    assert [n for n in public if f"aten.{n}" not in OPERATORS and not remedy(f"aten.{n}") and not n.startswith("miopen")] == []


def test_every_entry_of_the_table_is_reached_and_says_what_to_do():
    names = {n.strip("_") for n in ATEN}
    before: set[str] = set()
    for patterns, text in REMEDIES:
        mine = {n for n in names - before if any(fnmatchcase(n, p) for p in patterns.split())}
        assert mine, patterns
        before |= mine
        assert text.endswith(".") and "operators.md" not in text
        assert re.search(
            r"\b(use|write|return|give|keep|build|leave|train|apply|do it|compute|index|look|carry|export|make|sort)\b", text, re.I
        ), text


# -- remedies that are followed --------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, function, layer=None):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.more = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(256, 5)
        self.layer = layer or nn.Identity()
        self.function = function

    def forward(self, x):
        return self.function(self, x)


FOLLOWED = {
    "softmax": (lambda m, x: m.more(m.conv(x).softmax(1)), "leave it to the end of the model", lambda m, x: m.more(m.conv(x)).softmax(1)),
    "argmax": (lambda m, x: m.more(m.conv(x).argmax(1, keepdim=True).float().expand(-1, 4, -1, -1)), "host computes argmax behind the last layer", lambda m, x: m.head(m.conv(x).flatten(1)).argmax(1)),
    "top 4": (lambda m, x: m.more(m.conv(x).topk(4, 1)[0]), "return the tensor that it reads", lambda m, x: m.conv(x).topk(4, 1)[0]),
    "sums along a channel": (lambda m, x: m.more(m.conv(x).cumsum(1)), "reduce on the host, behind the model", lambda m, x: m.conv(x).cumsum(1)),
    "standard deviation": (lambda m, x: m.more(m.conv(x).std((2, 3), keepdim=True)), r"x\.square\(\)\.mean\(d\) - x\.mean\(d\)\.square\(\)", lambda m, x: (y := m.conv(x)).square().mean((2, 3)) - y.mean((2, 3)).square()),
    "product of two activations' matrices": (
        lambda m, x: m.more((m.conv(x).flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(-1)), r"use nn\.Conv2d, or nn\.Linear", lambda m, x: m.head(m.conv(x).flatten(1))
    ),
    "group norm": (lambda m, x: m.more(F.group_norm(m.conv(x), 2)), r"train with nn\.BatchNorm2d", lambda m, x: m.more(m.layer(m.conv(x))), nn.BatchNorm2d(4)),
    "random in evaluation": (lambda m, x: m.more(m.conv(x) + torch.randn_like(x)), "leave it out of forward", lambda m, x: m.more(m.conv(x))),
    "loss in forward": (lambda m, x: F.mse_loss(m.conv(x), x, reduction="none"), "leave it out of forward", lambda m, x: m.conv(x)),
    "spectrum": (lambda m, x: torch.fft.rfft(m.conv(x)).real, "give them to the model as its input", lambda m, x: m.conv(x)),
    "index by data": (lambda m, x: m.more(m.conv(x).index_select(1, torch.arange(4) + x.mean().long())), r"a buffer of integers", lambda m, x: m.layer(m.conv(x).index_select(1, torch.tensor([3, 0]))), nn.Conv2d(2, 4, 1)),
    "softmax between layers": (
        lambda m, x: m.more(m.conv(x).softmax(1)),
        r"cut the model there\. One model returns the result of aten\.conv2d 'conv2d' \(conv, test_remedies\.py:\d+\), the host computes the operator, and a second",
        lambda m, x: m.conv(x),
    ),
    "statistics of the batch": (
        lambda m, x: m.layer(m.conv(x)), "build it with track_running_stats=True", lambda m, x: m.more(m.conv(x)), nn.BatchNorm2d(4, track_running_stats=False)
    ),
}  # fmt: skip
"""By name: a function that is refused, the remedy, a function that follows it, and perhaps a layer for `m.layer`."""


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_remedy_compiles(name):
    refused, text, followed, *layer = FOLLOWED[name]
    with pytest.raises(CompileError) as error:
        provisional_graph(Model(refused, *layer), X, "ulx3s-85f")
    assert re.search(text, str(error.value), re.I), str(error.value)
    compile_graph(provisional_graph(Model(followed, *layer), X, "ulx3s-85f"))


def test_both_halves_of_a_cut_model_compile():
    first, second = Model(lambda m, x: m.conv(x)), Model(lambda m, x: m.more(x))
    for half in (first, second):
        compile_graph(provisional_graph(half, X, "ulx3s-85f"))


# -- every problem once ----------------------------------------------------------------------------------------------


def test_one_paragraph_for_many_calls_of_the_same_kind():
    model = Model(lambda m, x: m.more(sum(m.conv(x).cumsum(1) for _ in range(16))))
    with pytest.raises(CompileError) as error:
        provisional_graph(model, X, "ulx3s-85f")
    text = str(error.value)
    assert (
        text.startswith("aten.cumsum, 16 calls, 'cumsum' (test_remedies.py:") and text.count("This operator is not supported") == 1
    )
    assert " and 12 more: " in text
    assert len([n for n in inspect(model, X).nodes if not n.supported]) == 16


def test_what_was_found_is_listed_once():
    problems = [Problem(f"slice_{i}", "aten.slice", "net.py:3", "Slices take channels.", f"dim={2 + i % 2}") for i in range(4)]
    assert listed([*problems, Problem("f", "aten.fft", "", "No.")]) == [
        "aten.slice, 4 calls, 'slice_0' (net.py:3), 'slice_1' (net.py:3), 'slice_2' (net.py:3), 'slice_3' (net.py:3): "
        "Slices take channels. Found: dim=2; dim=3.",
        "aten.fft 'f' (): No.",
    ]


class Attention(nn.Module):
    """Views of five dimensions on both sides of products of two activations, which alone are a problem."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Conv2d(4, 12, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(-1, 3, 2, 2, 64).permute(1, 0, 2, 4, 3).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(2, 3).reshape(-1, 4, 8, 8))


def test_consequences_of_a_problem_are_not_named():
    with pytest.raises(CompileError) as error:
        provisional_graph(Attention(), X, "ulx3s-85f")
    text = str(error.value)
    assert text.startswith("aten.scaled_dot_product_attention"), text
    assert "permute" not in text and "unbind" not in text
    assert "attention multiplies two activations" in text
