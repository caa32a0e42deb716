"""What the back end refuses, and in which words."""

import re

import numpy as np
import pytest
from graphs import SMALL, Net

from sordino_compiler.driver import compile_graph
from sordino_hw.spec.errors import CompileError


def refused(graph, text: str, **options):
    with pytest.raises(CompileError) as error:
        compile_graph(graph, **options)
    assert re.fullmatch(text, str(error.value)), str(error.value)


def test_accumulator_overflow_names_node_channel_and_bound():
    net = Net()
    requant = net.requant(3, bias=np.array([0, 0, (1 << 31) - 255]))
    net.conv("y", net.input("x", 1, 1, 1), 3, (1, 1), weight=np.full((3, 1, 1, 1), 1, np.int8), requant=requant)
    refused(
        net.graph("y"),
        r"conv 'y' \(net\.py:2\): channel 2 can reach an accumulator of 2147483648, beyond the 32 bits of the array "
        r"\(2147483647\)\. Use smaller weights or a smaller bias \(a coarser scale\), or fewer inputs to the layer\.",
    )
    net.nodes[-1].requant.bias[2] -= 1
    compile_graph(net.graph("y"))


def test_vector_overflow_counts_weights_and_residual():
    net = Net()
    requant = net.requant(2, bias=np.array([0, -(1 << 31) + 255 * 10 + 255 * 7]))
    fields = {"weight": np.array([[[10]], [[-10]]]), "requant": requant}
    net.depthwise("y", net.input("x", 2, 1, 1), (1, 1), residual="x", **fields)
    net.nodes[-1].residual_weight[:] = [7, -7]
    refused(net.graph("y"), r"depthwise 'y' \(net\.py:2\): channel 1 can reach an accumulator of 2147483648, .*")


TIGHT = SMALL.replace(name="tight", act_depth=224)


def chain(arch) -> Net:
    net = Net(arch)
    net.conv("b", net.conv("a", net.input("x", 8, 9, 9), 16), 8)
    net.conv("c", "b", 8)
    return net


def test_activations_that_do_not_fit_name_layer_and_words():
    refused(
        chain(TIGHT).graph("c"),
        r"conv 'a' \(net\.py:2\): the activations alive there need 243 words of 8 channels, architecture 'tight' has 224 "
        r"\(largest: 'a' with 162, 'x' with 81\)\. Use a smaller input or fewer channels, or an ArchConfig with a larger act_depth\.",
    )
    compile_graph(chain(TIGHT.replace(act_depth=256)).graph("c"))


def test_without_reuse_the_remedy_is_reuse():
    refused(
        chain(SMALL).graph("c"),
        r"conv 'c' .*: the activations up to there need 405 words .* larger act_depth, or compile with reuse=True\.",
        reuse=False,
    )


def test_stride_beyond_its_register():
    net = Net()
    net.conv("y", net.input("x", 1, 200, 1), 1, (1, 1), stride=(256, 1))
    refused(
        net.graph("y"),
        r"conv 'y' \(net\.py:2\): register SY \(input rows between output rows \(stride\)\) cannot hold 256: it goes from "
        r"0 to 255\. Use a smaller kernel, stride, dilation, padding or input\.",
    )


def test_input_beyond_its_register():
    net = Net(SMALL.replace(act_depth=8192))
    net.conv("y", net.input("x", 1, 4096, 1), 1, (1, 1))
    refused(net.graph("y"), r"conv 'y' .*: register H \(input rows \(bounds for padding\)\) cannot hold 4096: .*")


def test_weight_memory_smaller_than_one_tap():
    net = Net(SMALL.replace(name="flat", weight_depth=7))
    net.conv("y", net.input("x", 8, 2, 2), 8)
    refused(
        net.graph("y"),
        r"conv 'y' \(net\.py:2\): not even one tap fits architecture 'flat' with its 7 weight rows, or the kernel exceeds 255 rows "
        r"or columns\. Use a smaller kernel, or an ArchConfig with a larger weight_depth\.",
    )


def test_max_pooling_cannot_be_tiled():
    net = Net(SMALL.replace(act_depth=1024))
    net.maxpool("y", net.input("x", 1, 256, 1), (256, 1))
    refused(net.graph("y"), r"maxpool 'y' \(net\.py:2\): .* the kernel exceeds 255 rows or columns\. .*")


def test_state_memory_smaller_than_one_output():
    net = Net(SMALL.replace(name="stateless", state_depth=3, weight_depth=16))
    net.conv("y", net.input("x", 8, 3, 3), 8)
    refused(
        net.graph("y"),
        r"conv 'y' \(net\.py:2\): its partial sums do not fit: the accumulator state memory of architecture 'stateless' has 3 rows "
        r"of 2 channels, less than one output pixel takes\. Use an ArchConfig with a larger state_depth, or with a weight_depth "
        r"that holds the whole layer\.",
    )


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("imem_depth", 30, r"\d+ instructions \(available: 30; imem_depth\)"),
        ("param_depth", 3, r"4 requantiser parameter rows \(available: 3; param_depth\)"),
    ],
)
def test_memory_smaller_than_one_operation(field, value, text):
    net = Net(SMALL.replace(name="mini", **{field: value}))
    net.conv("y", net.input("x", 8, 3, 3), 8)
    refused(
        net.graph("y"),
        rf"conv 'y' \(net\.py:2\): one operation of it needs {text} of architecture 'mini'\. "
        r"Use a smaller layer or an ArchConfig with larger memories\.",
    )


def test_a_graph_without_output():
    net = Net()
    net.input("x", 1, 1, 1)
    refused(net.graph(), r"the graph has no output: there is nothing to compile\. Return a value from the model\.")
