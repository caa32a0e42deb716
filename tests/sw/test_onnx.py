"""ONNX files: what is read computes what ONNX's own reference computes, and what is not read is refused in one paragraph."""

import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import sordino as sd
from sordino import zoo
from sordino.cli import app
from sordino.onnx.functions import FUNCTIONS
from sordino.onnx.layers import LAYERS

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def file_of(path, nodes, shape, constants=(), opset=17, outputs=("y",)):
    """Writes a model whose input is `x`; a shape's first dimension is free."""
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(constants).items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])
    made = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    model = helper.make_model(helper.make_graph(nodes, "g", [given], made, tensors), opset_imports=[helper.make_opsetid("", opset)])
    onnx.save(model, path)
    return model


def node(kind, *inputs, outputs=("y",), name="", **attributes):
    return helper.make_node(kind, ["x", *inputs], list(outputs), name=name, **attributes)


I64 = np.int64
IMAGE, VECTOR = (2, 4, 6, 8), (2, 12)
ONE = {
    "Conv": (IMAGE, [node("Conv", "w", "b", pads=[1, 1, 1, 1], strides=[2, 1])], {"w": numbers(6, 4, 3, 3), "b": numbers(6)}),
    "Conv, groups and pads": (IMAGE, [node("Conv", "w", group=2, pads=[0, 1, 2, 0], dilations=[1, 2])], {"w": numbers(6, 2, 3, 3)}),
    "Conv, SAME": (IMAGE, [node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2])], {"w": numbers(6, 4, 3, 3)}),
    "Conv, one dimension": ((2, 4, 9), [node("Conv", "w", pads=[1, 1])], {"w": numbers(3, 4, 3)}),
    "ConvTranspose": (IMAGE, [node("ConvTranspose", "w", strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])], {"w": numbers(4, 3, 3, 3)}),
    "Gemm": (VECTOR, [node("Gemm", "w", "b", transB=1)], {"w": numbers(5, 12), "b": numbers(5)}),
    "Gemm, alpha and beta": (VECTOR, [node("Gemm", "w", "b", alpha=0.5, beta=2.0)], {"w": numbers(12, 5), "b": numbers(5)}),
    "MatMul": (VECTOR, [node("MatMul", "w")], {"w": numbers(12, 5)}),
    "BatchNormalization": (IMAGE, [node("BatchNormalization", "g", "b", "m", "v", epsilon=1e-3)], {"g": numbers(4), "b": numbers(4), "m": numbers(4), "v": abs(numbers(4))}),
    "PRelu": (IMAGE, [node("PRelu", "a")], {"a": abs(numbers(4, 1, 1))}),
    "Clip": (IMAGE, [node("Clip", "lo", "hi")], {"lo": np.float32(0), "hi": np.float32(6)}),
    "Clip, one bound": (IMAGE, [node("Clip", "", "hi")], {"hi": np.float32(0.5)}),
    "MaxPool": (IMAGE, [node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "MaxPool, uneven": (IMAGE, [node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=0)], {}),
    "AveragePool": (IMAGE, [node("AveragePool", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 1, 1])], {}),
    "AveragePool, counting": (IMAGE, [node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)], {}),
    "GlobalAveragePool": (IMAGE, [node("GlobalAveragePool")], {}),
    "GlobalMaxPool": (IMAGE, [node("GlobalMaxPool")], {}),
    **{kind: (IMAGE, [node(kind)], {}) for kind in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Elu", "Selu", "Softplus", "Softsign", "Neg", "Abs", "Exp", "Floor", "Ceil", "Sin", "Cos", "Erf", "Identity", "Dropout", "Reciprocal")},
    **{kind: (IMAGE, [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(kind, ["a"], ["y"])], {}) for kind in ("Log", "Sqrt")},
    "LeakyRelu": (IMAGE, [node("LeakyRelu", alpha=0.1)], {}),
    "HardSigmoid": (IMAGE, [node("HardSigmoid", alpha=1 / 6, beta=0.5)], {}),
    "HardSigmoid, default": (IMAGE, [node("HardSigmoid")], {}),
    **{kind: (IMAGE, [node(kind, "c")], {"c": abs(numbers(4, 1, 1)) + 0.5}) for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")},
    "Pow": (IMAGE, [node("Pow", "c")], {"c": np.float32(2)}),
    "Concat": (IMAGE, [node("Concat", "x", axis=1)], {}),
    "Reshape": (IMAGE, [node("Reshape", "s")], {"s": np.array([0, -1], I64)}),
    "Flatten": (IMAGE, [node("Flatten")], {}),
    "Transpose": (IMAGE, [node("Transpose", perm=[0, 2, 3, 1])], {}),
    "Squeeze": ((2, 1, 6, 1), [node("Squeeze", "a")], {"a": np.array([1, -1], I64)}),
    "Unsqueeze": (VECTOR, [node("Unsqueeze", "a")], {"a": np.array([2, -1], I64)}),
    "Slice": (IMAGE, [node("Slice", "s", "e", "a", "t")], {"s": np.array([1, -6], I64), "e": np.array([3, 2**62], I64), "a": np.array([1, 3], I64), "t": np.array([1, 2], I64)}),
    "Slice, flip": (IMAGE, [node("Slice", "s", "e", "a", "t")], {"s": np.array([-1], I64), "e": np.array([-(2**62)], I64), "a": np.array([1], I64), "t": np.array([-1], I64)}),
    "Split": (IMAGE, [node("Split", "s", outputs=("a", "b"), axis=1), helper.make_node("Sub", ["a", "b"], ["y"])], {"s": np.array([2, 2], I64)}),
    "Gather": (IMAGE, [node("Gather", "i", axis=1)], {"i": np.array([2, 0, -1], I64)}),
    "Gather, one": (IMAGE, [node("Gather", "i", axis=1)], {"i": np.array(1, I64)}),
    "Pad": (IMAGE, [node("Pad", "p", "v")], {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], I64), "v": np.float32(1.5)}),
    "Pad, reflect": (IMAGE, [node("Pad", "p", mode="reflect")], {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1], I64)}),
    "Tile": (IMAGE, [node("Tile", "r")], {"r": np.array([1, 2, 1, 1], I64)}),
    "Expand": ((2, 1, 6), [node("Expand", "s")], {"s": np.array([1, 3, 1], I64)}),
    "ReduceMean": (IMAGE, [node("ReduceMean", axes=[2, 3], keepdims=0)], {}),
    "ReduceSum": (IMAGE, [node("ReduceSum", "a")], {"a": np.array([1], I64)}),
    "ReduceMax": (IMAGE, [node("ReduceMax", axes=[-1])], {}),
    "ReduceMin": (IMAGE, [node("ReduceMin", axes=[1])], {}),
    "Softmax": (IMAGE, [node("Softmax", axis=1)], {}),
    "LogSoftmax": (IMAGE, [node("LogSoftmax")], {}),
    "DepthToSpace": (IMAGE, [node("DepthToSpace", blocksize=2)], {}),
    "DepthToSpace, CRD": (IMAGE, [node("DepthToSpace", blocksize=2, mode="CRD")], {}),
    "SpaceToDepth": (IMAGE, [node("SpaceToDepth", blocksize=2)], {}),
    "Resize, nearest": (IMAGE, [node("Resize", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], {"s": np.array([1, 1, 2, 3], np.float32)}),
    "Resize, linear": (IMAGE, [node("Resize", "", "s", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}),
    "Resize, corners": (IMAGE, [node("Resize", "", "", "s", mode="linear", coordinate_transformation_mode="align_corners")], {"s": np.array([2, 4, 9, 12], I64)}),
    "InstanceNormalization": (IMAGE, [node("InstanceNormalization", "g", "b")], {"g": numbers(4), "b": numbers(4)}),
    "LayerNormalization": (IMAGE, [node("LayerNormalization", "g", "b")], {"g": numbers(8), "b": numbers(8)}),
    "ArgMax": (IMAGE, [node("ArgMax", axis=1), ], {}),
    "Cast": (IMAGE, [node("Cast", to=TensorProto.FLOAT)], {}),
    "Where": (IMAGE, [node("Greater", "z", outputs=("c",)), helper.make_node("Where", ["c", "x", "z"], ["y"])], {"z": np.float32(0)}),
    "Less, Not": (IMAGE, [node("Less", "z", outputs=("c",)), helper.make_node("Not", ["c"], ["d"]), helper.make_node("Where", ["d", "x", "z"], ["y"])], {"z": np.float32(0)}),
    "sizes": (IMAGE, [node("Shape", outputs=("s",)), helper.make_node("Gather", ["s", "zero"], ["n"]), helper.make_node("Unsqueeze", ["n", "zero1"], ["n1"]),
                      helper.make_node("Concat", ["n1", "minus"], ["to"], axis=0), node("Reshape", "to")],
              {"zero": np.array(0, I64), "zero1": np.array([0], I64), "minus": np.array([-1], I64)}),
    "expanded constant": (IMAGE, [node("Shape", outputs=("s",)), helper.make_node("ConstantOfShape", ["three"], ["ones"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
                                  node("Add", "ones")], {"three": np.array([4, 1, 1], I64)}),
    "constants": (VECTOR, [helper.make_node("Constant", [], ["c"], value_floats=[0.5] * 12), helper.make_node("Mul", ["c", "w"], ["d"]), node("Add", "d")], {"w": numbers(12)}),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE)
def test_an_operator_computes_what_the_reference_does(case, tmp_path):
    shape, nodes, constants = ONE[case]
    model = file_of(tmp_path / "m.onnx", nodes, shape, constants)
    x = numbers(*shape)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    with torch.no_grad():
        got = sd.load_onnx(tmp_path / "m.onnx")(torch.from_numpy(x)).numpy()
    assert got.shape == want.shape
    assert np.allclose(got, want, rtol=1e-5, atol=1e-6)


OLDER = {
    "Clip": ((2, 3), [node("Clip", min=0.0, max=6.0)], {}, 9),
    "Slice": (IMAGE, [node("Slice", starts=[1], ends=[3], axes=[2])], {}, 9),
    "Squeeze": ((2, 1, 5), [node("Squeeze", axes=[1])], {}, 9),
    "Unsqueeze": (VECTOR, [node("Unsqueeze", axes=[1])], {}, 11),
    "Pad": (IMAGE, [node("Pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)], {}, 9),
    "Split": (
        IMAGE,
        [node("Split", outputs=("a", "b"), axis=1, split=[1, 3]), helper.make_node("Concat", ["b", "a"], ["y"], axis=1)],
        {},
        9,
    ),
    "Upsample": (IMAGE, [node("Upsample", "s", mode="nearest")], {"s": np.array([1, 1, 2, 2], np.float32)}, 9),
    "ReduceSum": (IMAGE, [node("ReduceSum", axes=[1])], {}, 11),
}


@pytest.mark.parametrize("case", OLDER)
def test_older_operator_sets(case, tmp_path):
    shape, nodes, constants, opset = OLDER[case]
    model = file_of(tmp_path / "m.onnx", nodes, shape, constants, opset)
    x = numbers(*shape)
    want = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert np.allclose(sd.load_onnx(tmp_path / "m.onnx")(torch.from_numpy(x)).numpy(), want, atol=1e-6)


def test_every_operator_is_tried_or_needs_no_trial():
    tried = {n.op_type for _, nodes, *_ in (*ONE.values(), *OLDER.values()) for n in nodes}
    assert {*LAYERS, *FUNCTIONS} - tried <= {"Mish", "Gelu", "Equal", "GreaterOrEqual", "LessOrEqual", "ReduceProd"}


def test_the_page_lists_every_operator():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "onnx.md").read_text()
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ") and "operators |" not in line]
    listed = [name.split("(")[0].strip() for row in rows for name in row.split(",")]
    assert sorted(listed) == sorted({*LAYERS, *FUNCTIONS})


class Mixed(nn.Module):
    """What exported networks hold: norms, residuals, sizes computed from the input, tied weights."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.c = nn.Conv2d(8, 8, 3, padding=1)
        self.c.bias = self.b.bias
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        y = F.relu(self.n(self.a(x)))
        y = F.relu6(self.c(F.leaky_relu(self.b(y), 0.1)) + y)
        y = F.max_pool2d(F.interpolate(F.max_pool2d(y, 2), scale_factor=2.0), 2)
        return self.head(y.view(y.size(0), -1))


def export(model, x, path, dynamic=True, opset=17):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"input": {0: "n"}} if dynamic else None
        torch.onnx.export(
            model.eval(),
            (x,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            dynamic_axes=axes,
            do_constant_folding=dynamic,
        )


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("opset", [9, 13, 17])
def test_a_network_exported_by_torch_is_equal(dynamic, opset, tmp_path):
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(2, 3, 8, 8)
    export(model, x[: 1 + dynamic], tmp_path / "m.onnx", dynamic, opset)
    read = sd.load_onnx(tmp_path / "m.onnx")
    assert [tuple(t.shape) for t in read.example] == [(1, 3, 8, 8)]
    with torch.no_grad():
        for part in (x,) if dynamic else x.split(1):
            assert torch.allclose(read(part), model(part), atol=1e-6)
    report = sd.check(read, read.example)
    assert report.ok and sd.check(model, x[:1]).cycles(0.5) == pytest.approx(report.cycles(0.5))


@pytest.mark.filterwarnings("ignore")
def test_a_network_of_a_file_goes_all_the_way(tmp_path):
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(8, 3, 8, 8)
    export(model, x[:2], tmp_path / "m.onnx")
    read = sd.load_onnx(tmp_path / "m.onnx")
    sparse = sd.sparsify(read, "star", calibration=x)
    assert len(sparse.sparsification.replaced) >= 2
    quantised = sd.quantize(read, x)
    assert sd.compare(read, quantised, x)
    y = sd.Accelerator(sd.compile(quantised))(x)
    assert (y - model(x).detach()).square().mean() < 0.01 * model(x).detach().square().mean()


def relative(a, b):
    leaves = torch.utils._pytree.tree_leaves
    return max(float((p - q).abs().max() / p.abs().max()) for p, q in zip(leaves(a), leaves(b), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "pilotnet",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilenet_v2", "resnet18", "yolox_nano", "deeplabv3plus_mobilenet")),
    ],
)
def test_networks_of_the_zoo_are_equal(name, tmp_path):
    torch.manual_seed(0)
    model, entry = zoo.model(name).eval(), zoo.entry(name)
    shape = entry.shape if name == "pilotnet" else (entry.shape[0], 64, 64)
    x = torch.randn(2, *shape)
    export(model, x, tmp_path / "m.onnx")
    with torch.no_grad():
        assert relative(model(x), sd.load_onnx(tmp_path / "m.onnx")(x)) < 1e-5


def test_weights_beside_the_file(tmp_path):
    model = file_of(tmp_path / "a.onnx", [node("MatMul", "w")], VECTOR, {"w": numbers(12, 5)})
    onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = torch.from_numpy(numbers(2, 12))
    assert torch.equal(sd.load_onnx(tmp_path / "a.onnx")(x), sd.load_onnx(tmp_path / "b.onnx")(x))
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(
        sd.InputError, match=r"b\.onnx: the data of tensor 'w' cannot be read from weights\.bin \(bytes 0 to 240 of 5\)\. .*"
    ):
        sd.load_onnx(tmp_path / "b.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "", "link.bin", "nothing.bin"])
def test_nothing_outside_the_folder_is_read(location, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(240))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = file_of(folder / "a.onnx", [node("MatMul", "w")], VECTOR, {"w": numbers(12, 5)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        sd.InputError, match=r"it must be a file in the folder of the model\. Put the file of weights .* beside it\.$"
    ):
        sd.load_onnx(folder / "a.onnx")


def body(outputs=("y",)):
    out = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    return helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [], out)


def tensor_of(kind, dims, raw=b""):
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)


REFUSED = {
    "unsupported": (
        [node("LSTM", "w", outputs=("a",), name="/rnn/LSTM"), helper.make_node("Whatever", ["a"], ["y"], name="odd")],
        [],
        r"operators that are not supported: LSTM \(/rnn/LSTM\); Whatever \(odd\)\. The array has no recurrent layers: .*",
    ),
    "another domain": ([node("FusedConv", "w", domain="com.microsoft", name="f")], [], r"FusedConv 'f' is of the operators 'com\.microsoft', .*"),
    "quantised": ([node("QuantizeLinear", "w", name="q")], [], r"operators that are not supported: QuantizeLinear \(q\)\. Export the float network: .*"),
    "control flow": ([node("If", then_branch=body(), else_branch=body(), name="if")], [], r"If 'if' has a graph of its own \(control flow\), .*"),
    "attribute": ([node("Relu", sparkle=1, name="r")], [], r"Relu 'r' has the attribute 'sparkle', which is not known .*"),
    "out of order": ([node("Add", "later")], [], r"Add 'Add_0' reads 'later', which nothing before it makes\. .*"),
    "cycle": ([helper.make_node("Add", ["x", "y"], ["y"], name="loop")], [], r"Add 'loop' reads 'y', which nothing before it makes\. .*"),
    "twice": ([node("Relu"), node("Relu", name="again")], [], r"Relu 'again' makes 'y', which there is already\. .*"),
    "no output": ([node("Relu", outputs=("z",))], [], r"no node makes the output 'y'\. .*"),
    "gigantic": ([node("MatMul", "w")], [tensor_of(TensorProto.FLOAT, [1 << 40, 1 << 20])], r"tensor 'w' has the dimensions \[1099511627776, 1048576\]; .*"),
    "negative": ([node("MatMul", "w")], [tensor_of(TensorProto.FLOAT, [-3, 5])], r"tensor 'w' has the dimensions \[-3, 5\]; .*"),
    "too short": ([node("MatMul", "w")], [tensor_of(TensorProto.FLOAT, [12, 5], bytes(12))], r"tensor 'w' has 12 bytes; its dimensions \[12, 5\] need 240\. .*"),
    "text": ([node("MatMul", "w")], [tensor_of(TensorProto.STRING, [2])], r"tensor 'w' has the type STRING, .*"),
    "complex": ([node("MatMul", "w")], [tensor_of(TensorProto.COMPLEX64, [2], bytes(16))], r"tensor 'w' has the type COMPLEX64, .*"),
    "unknown type": ([node("MatMul", "w")], [tensor_of(999, [2])], r"tensor 'w' has the type 999, .*"),
    "shapes": ([node("MatMul", "w", name="m")], [numpy_helper.from_array(numbers(7, 5), "w")], r"node 'm' .* does not take \(1, 12\): .*"),
    "enlarged": ([helper.make_node("ConstantOfShape", ["w"], ["c"], name="big"), node("Add", "c")], [numpy_helper.from_array(np.array([1 << 31, 12], I64), "w")],
                 r"ConstantOfShape 'big': it makes a tensor of the dimensions \[2147483648, 12\]; .*"),
    "multiplied": ([node("Unsqueeze", "w", outputs=("u",)), helper.make_node("Expand", ["u", "s"], ["y"], name="big")],
                   [numpy_helper.from_array(np.array([2], I64), "w"), numpy_helper.from_array(np.array([1, 12, 1 << 30], I64), "s")],
                   r"node 'big': it makes a tensor of the dimensions \[1, 12, 1073741824\]; .*"),
    "constants multiplied": ([helper.make_node("Add", ["w", "v"], ["c"], name="outer"), node("Add", "c")],
                             [numpy_helper.from_array(np.zeros((1 << 15, 1), np.float32), "w"), numpy_helper.from_array(np.zeros((1, 1 << 15), np.float32), "v")],
                             r"Add 'outer': it makes a tensor of the dimensions \[32768, 32768\]; .*"),
    "training": ([node("BatchNormalization", "w", "w", "w", "w", training_mode=1, name="bn")], [numpy_helper.from_array(numbers(12), "w")],
                 r"BatchNormalization 'bn': it is in training mode\. Export the network in evaluation mode .*"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_not_read_is_refused_in_one_paragraph(case, tmp_path):
    nodes, tensors, message = REFUSED[case]
    model = file_of(tmp_path / "m.onnx", nodes, VECTOR)
    model.graph.initializer.extend(tensors)
    if case in ("unsupported", "quantised", "another domain"):
        model.graph.initializer.extend([numpy_helper.from_array(numbers(2), "w")])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(sd.InputError, match=r"m\.onnx: " + message) as caught:
        sd.load_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [3, 99])
def test_operator_sets_beyond_the_range_and_the_remedy(opset, tmp_path):
    path = tmp_path / "m.onnx"
    model = file_of(path, [node("Relu")], VECTOR, opset=max(opset, 6) if opset < 7 else 17)
    model.opset_import[0].version = opset if opset > 7 else 6
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        sd.InputError,
        match=r"m\.onnx: operator set \d+; 7 to 26 are read\. Convert it with onnx\.version_converter\.convert_version\(model, 17\), .*",
    ):
        sd.load_onnx(path)
    if opset < 7:
        onnx.save(onnx.version_converter.convert_version(model, 17), path)
        assert torch.equal(sd.load_onnx(path)(-torch.ones(1, 12)), torch.zeros(1, 12))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    whole = file_of(path, [node("MatMul", "w")], VECTOR, {"w": numbers(12, 5)}).SerializeToString()
    for data in (b"", b"text", whole[: len(whole) // 2], bytes([0x0A] * 50_000)):
        path.write_bytes(data)
        with pytest.raises(sd.InputError, match=r"^.*m\.onnx: "):
            sd.load_onnx(path)
    for missing in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(sd.InputError):
            sd.load_onnx(missing)


def test_damaged_files_end_in_an_error_of_ours(tmp_path):
    """Bytes changed at random: the file is read, or refused in words."""
    torch.manual_seed(0)
    path = tmp_path / "m.onnx"
    export(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.Flatten(), nn.Linear(8, 2)),
        torch.randn(1, 1, 4, 4),
        path,
    )
    whole, pick = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(pick.choice((1, 1, 2, 8))):
            data[pick.randrange(len(data))] = pick.randrange(256)
        path.write_bytes(data[: pick.choice((len(data), pick.randrange(len(data))))])
        try:
            sd.load_onnx(path)
        except sd.SordinoError as error:
            refused += 1
            assert "\n" not in str(error) and math.isfinite(len(str(error)))
    assert refused > 50


def test_without_the_package_it_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(sd.ToolError, match=r"not installed\. Install it: pip install 'sordino\[onnx\]'\.$"):
        sd.load_onnx(tmp_path / "m.onnx")


def test_the_command_line_takes_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), torch.randn(2, 1, 8, 8), "net.onnx")
    np.save("x.npy", numbers(8, 1, 8, 8))

    def run(*arguments):
        return CliRunner().invoke(app, arguments)

    checked = run("check", "net.onnx")
    assert checked.exit_code == 0 and "Verdict: it fits" in checked.output
    compiled = run("compile", "net.onnx", "-c", "x.npy")
    assert compiled.exit_code == 0 and sd.load("net.sdn").input_shapes == [(1, 8, 8)]
    assert run("compile", "net.onnx").exit_code == 2
    assert run("compile", "net.onnx", "-c", "x.npy", "--random-weights").exit_code == 2
    assert run("check", "nothing.onnx").exit_code == 2
