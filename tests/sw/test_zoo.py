"""The zoo: published figures, names of parameters, checkpoints, and that every network can be exported and sparsified.

Networks live on the meta device here wherever values do not matter: no memory, no arithmetic.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sordino import zoo
from sordino.nn.base import sites
from sordino.sparsity import functional_relus, sparsify
from sordino.zoo.blocks import divisible
from sordino.zoo.boxes import box_iou, nms
from sordino.zoo.mobilenet_v2 import InvertedResidual
from sordino.zoo.page import figures, zoo_page
from sordino_compiler.inspection import inspect
from sordino_hw.spec.errors import InputError

ROOT = Path(__file__).parent.parent.parent

PARAMETERS = {
    # torchvision's documentation ("num_params" of its weights)
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "ssd300_vgg16": 35_641_826,
    # Keras' documentation of MobileNet: 4,253,864 in all, 21,888 of them running statistics; the paper says 4.2 million
    "mobilenet_v1": 4_253_864 - 21_888,
    # the paper says 250 thousand; the sum of its figure's layers
    "pilotnet": (3 * 25 + 1) * 24
    + (24 * 25 + 1) * 36
    + (36 * 25 + 1) * 48
    + (48 * 9 + 1) * 64
    + (64 * 9 + 1) * 64
    + 1153 * 100
    + 101 * 50
    + 51 * 10
    + 11,
}

# Keras' summaries of MLPerf Tiny's reference models, running statistics (two a channel of each norm) counted there and not here
PARAMETERS |= {
    "ds_cnn": 24_908 - 2 * 9 * 64,
    "mobilenet_v1_025": 221_794 - 5_472,
    "resnet8": 78_666 - 480,
    "autoencoder": 269_992 - 2 * (8 * 128 + 8),
}

# Of DeepLabV3+ no exact count was published: the backbone's, from torchvision's, and the head of the paper, layer by layer.
ASPP = {c: 256 * (c + 3 * 9 * c + c) + 2 * 5 * 256 + 5 * 256 * 256 + 2 * 256 for c in (320, 2048)}
DECODER = {c: 48 * c + 2 * 48 + 304 * 256 * 9 + 2 * 256 + 21 * 257 for c in (24, 256)}
PARAMETERS["deeplabv3plus_resnet50"] = 25_557_032 - 1000 * 2049 + ASPP[2048] + DECODER[256]
PARAMETERS["deeplabv3plus_mobilenet"] = 3_504_872 - 1000 * 1281 - 1280 * (320 + 2) + ASPP[320] + DECODER[24]

# YOLOX's README, in millions with two digits; s is "9.0" there and 8.97 in MMYOLO's model zoo
MILLIONS = {"yolox_nano": 0.91, "yolox_tiny": 5.06, "yolox_s": 8.97}

GMACS = {
    # torchvision's documentation ("GFLOPS", which counts a multiply-accumulate as one), three digits
    "resnet18": 1.814,
    "resnet50": 4.089,
    "mobilenet_v2": 0.301,
    "vgg11": 7.609,
    "vgg11_bn": 7.609,
    "vgg13": 11.308,
    "vgg13_bn": 11.308,
    "vgg16": 15.470,
    "vgg16_bn": 15.470,
    "vgg19": 19.632,
    "vgg19_bn": 19.632,
    "ssd300_vgg16": 34.858,
    "mobilenet_v1": 0.569,  # the paper's 569 million
    "pilotnet": 0.027,  # the paper's 27 million connections
    "ds_cnn": 0.00266,  # MLPerf Tiny: 2.66, 7.49, 12.5 and 0.264 million
    "mobilenet_v1_025": 0.00749,
    "resnet8": 0.0125,
    "autoencoder": 0.000264,
}

# Published with thop, which counts batch norm as two and a bias as one operation: (figure, its last digit, factor)
THOP = {
    "yolox_nano": (1.08, 0.01, 2),  # README, multiply and accumulate counted apart
    "yolox_tiny": (6.45, 0.01, 2),
    "yolox_s": (26.8, 0.1, 2),
    # VainF's README does not say how it counted; what is left over is below 0.2
    "deeplabv3plus_mobilenet": (17.0, 0.2, 1),
    "deeplabv3plus_resnet50": (62.7, 0.4, 1),
}

NAMES = {
    "resnet18": "conv1.weight bn1.running_mean layer1.0.conv1.weight layer2.0.downsample.0.weight layer2.0.downsample.1.bias "
    "layer4.1.bn2.num_batches_tracked fc.weight fc.bias",
    "resnet50": "conv1.weight layer1.0.downsample.0.weight layer1.0.conv3.weight layer3.5.bn3.weight layer4.2.conv2.weight fc.bias",
    "mobilenet_v1": "conv_stem.weight bn1.weight blocks.0.0.conv_dw.weight blocks.0.0.bn1.bias blocks.0.0.conv_pw.weight "
    "blocks.3.5.bn2.running_var blocks.4.1.conv_pw.weight classifier.weight",
    "mobilenet_v2": "features.0.0.weight features.0.1.bias features.1.conv.0.0.weight features.1.conv.1.weight features.1.conv.2.bias "
    "features.2.conv.0.0.weight features.2.conv.1.1.running_var features.2.conv.2.weight features.17.conv.3.weight "
    "features.18.0.weight classifier.1.bias",
    "vgg11": "features.0.weight features.18.bias classifier.0.weight classifier.6.bias",
    "vgg13": "features.0.weight features.22.bias classifier.3.weight",
    "vgg16": "features.0.weight features.28.bias classifier.6.weight",
    "vgg19": "features.0.weight features.34.bias classifier.6.weight",
    "vgg11_bn": "features.0.weight features.1.running_mean features.25.weight features.26.bias",
    "vgg13_bn": "features.3.weight features.32.bias",
    "vgg16_bn": "features.40.weight features.41.num_batches_tracked classifier.0.bias",
    "vgg19_bn": "features.49.weight features.50.running_var classifier.6.bias",
    "ssd300_vgg16": "backbone.scale_weight backbone.features.0.weight backbone.features.21.bias backbone.extra.0.1.weight "
    "backbone.extra.0.5.bias backbone.extra.0.7.1.weight backbone.extra.0.7.3.weight backbone.extra.1.0.weight backbone.extra.4.2.bias "
    "head.classification_head.module_list.0.weight head.regression_head.module_list.5.bias",
    "yolox_nano": "backbone.backbone.stem.conv.conv.weight backbone.backbone.dark2.0.dconv.conv.weight "
    "backbone.backbone.dark2.0.pconv.bn.weight backbone.backbone.dark3.1.m.2.conv2.dconv.bn.bias head.cls_convs.0.1.pconv.conv.weight",
    "yolox_tiny": "backbone.backbone.dark2.0.conv.weight backbone.backbone.dark5.1.conv2.bn.running_var backbone.C3_p4.m.0.conv1.conv.weight",
    "yolox_s": "backbone.backbone.stem.conv.bn.weight backbone.backbone.dark2.1.conv3.bn.bias backbone.backbone.dark5.2.m.0.conv2.conv.weight "
    "backbone.lateral_conv0.conv.weight backbone.C3_p3.conv1.conv.weight backbone.bu_conv2.bn.weight backbone.reduce_conv1.bn.bias "
    "backbone.bu_conv1.conv.weight backbone.C3_n3.conv2.conv.weight backbone.C3_n4.conv3.conv.weight head.stems.2.conv.weight "
    "head.cls_convs.1.0.conv.weight head.reg_convs.2.1.bn.bias head.cls_preds.0.weight head.reg_preds.1.bias head.obj_preds.2.weight",
    "deeplabv3plus_resnet50": "backbone.conv1.weight backbone.layer1.0.downsample.0.weight backbone.layer4.2.bn3.bias "
    "classifier.project.0.weight classifier.project.1.bias classifier.aspp.convs.0.0.weight classifier.aspp.convs.3.1.running_mean "
    "classifier.aspp.convs.4.1.weight classifier.aspp.convs.4.2.bias classifier.aspp.project.1.weight classifier.classifier.0.weight "
    "classifier.classifier.3.bias",
    "deeplabv3plus_mobilenet": "backbone.low_level_features.0.0.weight backbone.low_level_features.3.conv.3.bias "
    "backbone.high_level_features.4.conv.0.0.weight backbone.high_level_features.17.conv.3.weight classifier.classifier.3.weight",
    "pilotnet": "features.0.weight features.8.bias classifier.0.weight classifier.6.bias",
    "ds_cnn": "features.0.bias features.1.running_mean classifier.weight",
    "mobilenet_v1_025": "features.0.weight features.79.running_var classifier.bias",
    "resnet8": "features.3.body.0.weight features.4.shortcut.bias features.5.body.4.weight classifier.weight",
    "autoencoder": "layers.0.weight layers.1.running_var layers.27.bias",
}

KEYS = {
    # how many tensors a checkpoint holds: counted from the layers, five tensors a batch norm
    "resnet18": 20 * 6 + 2,
    "resnet50": 53 * 6 + 2,
    "mobilenet_v1": 27 * 6 + 2,
    "mobilenet_v2": 52 * 6 + 2,
    "vgg16": 16 * 2,
    "vgg16_bn": 13 * 7 + 3 * 2,
    "ssd300_vgg16": 1 + 2 * (13 + 2 + 8 + 12),
    "pilotnet": 9 * 2,
    "deeplabv3plus_resnet50": 53 * 6 + 8 * 6 + 2,
    "deeplabv3plus_mobilenet": 51 * 6 + 8 * 6 + 2,
}


@cache
def meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return zoo.model(name, **options).eval()


def allocated(name: str, **options) -> nn.Module:
    """On the CPU, every value 1: the compiler asks for weights."""
    with torch.device("meta"):
        model = zoo.model(name, **options).eval()
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.fill_(1)
    return model


def example(name: str, array: bool = False) -> torch.Tensor:
    shape = zoo.entry(name).shape
    if array and "upsampling" in zoo.entry(name).array:
        shape = (3, 512, 512)  # whole factors
    return torch.empty(1, *shape, device="meta")


def shapes(y) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in (y if isinstance(y, tuple) else (y,))]


# -- published figures ---------------------------------------------------------------------------------------------


def test_every_network_has_published_figures():
    assert set(zoo.names()) == PARAMETERS.keys() | MILLIONS.keys() == GMACS.keys() | THOP.keys() == NAMES.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    assert figures(name)[0] == PARAMETERS[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_round_to_the_published_millions(name):
    assert round(figures(name)[0] / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("name", GMACS)
def test_macs_round_to_the_published_ones(name):
    digits = 3 if GMACS[name] > 0.02 else max(len(str(GMACS[name])) - 2, 6 if GMACS[name] < 1e-3 else 4)
    assert abs(figures(name)[1] / 1e9 - GMACS[name]) < 0.51 * 10**-digits


@pytest.mark.parametrize("name", THOP)
def test_operations_as_thop_counts_them(name):
    model, extra = meta(name), 0

    def count(module, _inputs, y):
        nonlocal extra
        extra += 2 * y.numel() if isinstance(module, nn.BatchNorm2d) else y.numel()

    counted = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) or (isinstance(m, nn.Conv2d) and m.bias is not None)]
    handles = [m.register_forward_hook(count) for m in counted]
    model(example(name))
    for handle in handles:
        handle.remove()
    published, digit, factor = THOP[name]
    assert abs(factor * (figures(name)[1] + extra) / 1e9 - published) <= digit / 2


def test_macs_of_each_kind_of_layer():
    model = nn.Sequential(
        nn.Conv2d(4, 8, (3, 5), 2, padding=1, groups=2),
        nn.ConvTranspose2d(8, 6, 3, 2, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 7 * 5, 10),
    )
    model.train()
    assert zoo.count_macs(model, torch.zeros(3, 4, 6, 6)) == 3 * 2 * 8 * (2 * 15) + 8 * 3 * 2 * (3 * 9) + 6 * 7 * 5 * 10
    assert model.training


def test_page_is_fresh():
    assert (ROOT / "docs/reference/zoo.md").read_text() == zoo_page(), "run `make docs`"


# -- shapes, names, export -----------------------------------------------------------------------------------------

OUTPUTS = {
    "pilotnet": [(1, 1)],
    "ds_cnn": [(1, 12)],
    "mobilenet_v1_025": [(1, 2)],
    "resnet8": [(1, 10)],
    "autoencoder": [(1, 640)],
    "deeplabv3plus_resnet50": [(1, 21, 129, 129)],
    "deeplabv3plus_mobilenet": [(1, 21, 128, 128)],
    "ssd300_vgg16": [(1, a * k, s, s) for k in (91, 4) for a, s in zip((4, 6, 6, 6, 4, 4), (38, 19, 10, 5, 3, 1), strict=True)],
    "yolox_s": [(1, c, s, s) for s in (80, 40, 20) for c in (4, 1, 80)],
    **{n: [(1, c, s, s) for s in (52, 26, 13) for c in (4, 1, 80)] for n in ("yolox_nano", "yolox_tiny")},
}


@pytest.mark.parametrize("name", zoo.names())
def test_output_shapes(name):
    assert shapes(meta(name)(example(name))) == OUTPUTS.get(name, [(1, 1000)])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_parameters(name):
    keys = meta(name).state_dict().keys()
    assert not set(NAMES[name].split()) - keys
    assert len(keys) == KEYS.get(name, len(keys))


SMALL = ("pilotnet", "ds_cnn", "resnet8", "resnet18", "mobilenet_v1", "vgg11", "ssd300_vgg16")


@pytest.mark.parametrize("name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in zoo.names()])
def test_exports(name):
    program = torch.export.export(meta(name), (example(name),))
    assert shapes(program.module()(example(name))) == OUTPUTS.get(name, [(1, 1000)])


VARIANTS = [(n, {}) for n in zoo.names()] + [
    (n, {"activation": "relu"}) for n in ("mobilenet_v2", "yolox_nano", "deeplabv3plus_mobilenet")
]


@pytest.mark.slow
@pytest.mark.parametrize("name, options", VARIANTS)
def test_compiler_has_every_operator(name, options):
    found = inspect(allocated(name, **options, **zoo.entry(name).array), torch.zeros_like(example(name, array=True), device="cpu"))
    assert not found.problems


def test_compiler_refuses_the_published_form_of_what_needs_options():
    """Dividing by the L2 norm over channels is no operator of the array, and the host cannot do it between layers."""
    assert not inspect(allocated("ssd300_vgg16"), torch.zeros(1, 3, 300, 300)).supported


# -- sparsity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, count",
    [
        ("resnet18", {}, 17),
        ("resnet50", {}, 49),
        ("vgg16_bn", {}, 15),
        ("pilotnet", {}, 8),
        ("mobilenet_v1", {"activation": "relu"}, 27),
        ("mobilenet_v2", {"activation": "relu"}, 35),
        ("ssd300_vgg16", {}, 23),
        ("deeplabv3plus_mobilenet", {"activation": "relu"}, 34 + 8),
        ("deeplabv3plus_resnet50", {}, 49 + 8),
        ("yolox_s", {"activation": "relu"}, 74),
    ],
)
def test_every_relu_is_a_module_called_once(name, options, count):
    model, calls = meta(name, **options), {}
    handles = [m.register_forward_hook(lambda m, _x, _y: calls.update({m: calls.get(m, 0) + 1})) for _, m in sites(model)]
    model(example(name))
    for handle in handles:
        handle.remove()
    assert list(calls.values()) == [1] * count == [1] * len(list(sites(model)))
    assert not functional_relus(model)


def test_sparsify_replaces_every_site():
    model = zoo.model("yolox_nano", activation="relu").eval()
    sparse = sparsify(model, "star")
    assert [name for name, _ in sites(sparse)] == [name for name, _ in sites(model)]
    assert not any(isinstance(m, nn.ReLU) for m in sparse.modules())
    x = torch.rand(1, 3, 32, 32)
    assert shapes(sparse(x)) == shapes(model(x))


# -- the registry's errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet34", {}, r"^unknown network 'resnet34': the zoo has autoencoder, deeplabv3plus_mobilenet, .*vgg19_bn, yolox_nano"),
        ("resnet18", {"classes": 3}, r"^resnet18 has no option 'classes'; its options are num_classes$"),
        ("vgg11", {"depth": 16}, r"^vgg11 has no option 'depth'"),
        ("resnet18", {"num_classes": 0}, r"^num_classes must be a whole number above 0, not 0$"),
        ("mobilenet_v2", {"width_mult": -1}, r"^width_mult must be a number above 0, not -1$"),
        ("yolox_s", {"activation": "gelu"}, r"^activation must be one of 'silu', 'relu', not 'gelu'$"),
        ("deeplabv3plus_mobilenet", {"output_stride": 4}, r"^output_stride must be one of 8, 16, not 4$"),
    ],
)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(InputError, match=message), torch.device("meta"):
        zoo.model(name, **options)


# -- blocks against their originals --------------------------------------------------------------------------------


def test_stem_of_yolox_is_the_convolution_on_patches():
    torch.manual_seed(0)
    kernel, x = torch.randn(16, 12, 3, 3, dtype=torch.float64), torch.randn(2, 3, 32, 48, dtype=torch.float64)
    patches = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
    expected = nn.functional.conv2d(torch.cat(patches, 1), kernel, padding=1)
    model = zoo.model("yolox_nano").double()
    stem = "backbone.backbone.stem.conv.conv.weight"
    model.load_state_dict({**model.state_dict(), stem: kernel})
    torch.testing.assert_close(model.get_submodule(stem.removesuffix(".weight"))(x), expected)
    again = zoo.model("yolox_nano").double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.state_dict()[stem], model.state_dict()[stem])


@pytest.mark.parametrize("expansion", [1, 6])
def test_padding_in_front_of_an_inverted_residual(expansion):
    torch.manual_seed(0)
    block = InvertedResidual(8, 8, 1, expansion, dilation=2, activation="relu6", pad_first=True).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)  # so that padding is not zero behind the first convolution
    x = torch.randn(1, 8, 9, 9)
    with torch.no_grad():
        y = nn.functional.pad(x, (2, 2, 2, 2))
        for layer in block.conv.modules():
            if isinstance(layer, nn.Conv2d):
                y = nn.functional.conv2d(y, layer.weight, stride=layer.stride, dilation=layer.dilation, groups=layer.groups)
            elif not isinstance(layer, nn.Sequential):
                y = layer(y)
        torch.testing.assert_close(block(x), x + y)


def test_channels_are_rounded_as_mobilenet_does():
    assert [divisible(c) for c in (8, 11, 12, 24 * 0.75, 32 * 0.35, 1280 * 1.4)] == [8, 16, 16, 24, 16, 1792]


def test_output_stride_of_deeplab():
    assert shapes(meta("deeplabv3plus_mobilenet", output_stride=8)(example("deeplabv3plus_mobilenet")))[0] == (1, 21, 128, 128)
    network = meta("deeplabv3plus_resnet50", output_stride=8)
    assert shapes(network.backbone(example("deeplabv3plus_resnet50")))[1] == (1, 2048, 65, 65)
    assert network.backbone.layer4[2].conv2.dilation == (4, 4) and network.backbone.layer4[0].conv2.dilation == (2, 2)
    assert zoo.deeplab.labels(torch.eye(4).view(1, 4, 2, 2), (2, 2)).tolist() == [[[0, 1], [2, 3]]]


# -- boxes ---------------------------------------------------------------------------------------------------------


def test_overlap_of_boxes():
    a = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 1], [5, 5, 5, 5]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([[1 / 7, 1 / 2, 0], [0, 0, 0]]))


def test_non_maximum_suppression_is_greedy(rng):
    corner = torch.from_numpy(rng.uniform(0, 60, (80, 2)))
    boxes = torch.cat([corner, corner + torch.from_numpy(rng.uniform(5, 40, (80, 2)))], 1)
    scores = torch.from_numpy(rng.permutation(80) / 80)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(box_iou(boxes[i : i + 1], boxes[j : j + 1]).item() <= 0.3 for j in kept):
            kept.append(i)
    assert nms(boxes, scores, 0.3).tolist() == kept and 1 < len(kept) < 80


def test_boxes_of_ssd():
    sizes = [(s, s) for s in (38, 19, 10, 5, 3, 1)]
    anchors = zoo.ssd.default_boxes(sizes)
    assert len(anchors) == 8732  # the paper's number
    torch.testing.assert_close(anchors[4 * 39], torch.tensor([12.0, 12, 21, 21]))  # second row, second column: step 8, scale 0.07
    ratio_2 = torch.tensor([12.0, 12, 21 * 2**0.5, 21 / 2**0.5])
    torch.testing.assert_close(anchors[4 * 39 + 2], ratio_2)

    maps = [torch.zeros(2, 4 * 3, 38, 38)] + [torch.zeros(2, a * 3, *s) for a, s in zip((6, 6, 6, 4, 4), sizes[1:], strict=True)]
    offsets = [torch.zeros(2, m.shape[1] // 3 * 4, *m.shape[2:]) for m in maps]
    for m in maps:
        m[:, 0::3] = 20  # background
    maps[0][1, 2 * 3 + 1, 1, 1] = 40  # second image, box of ratio 2: class 1 ...
    maps[0][1, 3 + 2, 1, 1] = 40  # ... and class 2 on the larger square
    offsets[0][1, 2 * 4 : 3 * 4, 1, 1] = torch.tensor([1.0, 0, 0, 5 * np.log(2)])  # moved by a tenth of its width, twice as high
    none, some = zoo.ssd.detections([*maps, *offsets], score=0.5)
    assert len(none.boxes) == 0 and some.labels.tolist() == [1, 2] and bool((some.scores > 0.99).all())
    x, y, w, h = ratio_2.tolist()
    torch.testing.assert_close(some.boxes[0], torch.tensor([x + w / 10 - w / 2, max(0.0, y - h), x + w / 10 + w / 2, y + h]))


def test_boxes_of_yolox():
    maps = [torch.full((1, c, 64 // s, 64 // s), -20.0) for s in (8, 16, 32) for c in (4, 1, 3)]
    maps[3][0, :, 1, 2] = torch.tensor([0.5, 0.25, np.log(2), np.log(1)])  # stride 16, row 1, column 2
    maps[4][0, 0, 1, 2] = 20
    maps[5][0, 2, 1, 2] = 0  # class 2 with probability one half
    (found,) = zoo.yolox.detections(maps)
    assert found.labels.tolist() == [2]
    torch.testing.assert_close(found.scores, torch.tensor([0.5]))
    torch.testing.assert_close(found.boxes, torch.tensor([[40.0 - 16, 20 - 8, 40 + 16, 20 + 8]]))


# -- checkpoints ---------------------------------------------------------------------------------------------------


def save_plain(state, path):
    torch.save(state, path)


def save_training(state, path):
    torch.save({"cur_itrs": 3, "model_state": {f"module.{k}": v for k, v in state.items()}, "best_score": 0.7}, path)


def save_megvii(state, path):
    torch.save({"start_epoch": 300, "model": state, "optimizer": None}, path)


@pytest.mark.parametrize(
    "save, file", [(save_plain, "a.pth"), (save_training, "b.pth"), (save_megvii, "c.tar"), (save_file, "d.safetensors")]
)
def test_checkpoints_load(tmp_path, save, file):
    trained, model = zoo.model("pilotnet"), zoo.model("pilotnet")
    save(trained.state_dict(), tmp_path / file)
    zoo.load_checkpoint(model, tmp_path / file)
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), model.state_dict().values(), strict=True))


def test_checkpoint_of_megvii_and_of_old_torch(tmp_path):
    model = zoo.model("yolox_nano")
    state = {k: torch.rand_like(v) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    stem = "backbone.backbone.stem.conv.conv.weight"
    state[stem] = torch.rand(16, 12, 3, 3)
    torch.save({"model": state}, tmp_path / "yolox_nano.pth")
    zoo.load_checkpoint(model, tmp_path / "yolox_nano.pth")
    loaded = model.state_dict()
    torch.testing.assert_close(loaded[stem], zoo.yolox.YOLOX.adapt(state)[stem])
    assert all(torch.equal(loaded[k], v) for k, v in state.items() if k != stem)


def test_a_head_can_be_skipped(tmp_path):
    trained, model = zoo.model("pilotnet"), zoo.model("pilotnet", num_outputs=2)
    torch.save(trained.state_dict(), tmp_path / "one.pth")
    before = model.classifier[6].weight.clone()
    zoo.load_checkpoint(model, tmp_path / "one.pth", skip=["classifier.6."])
    assert torch.equal(model.features[0].weight, trained.features[0].weight)
    assert torch.equal(model.classifier[6].weight, before)


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    model = zoo.model("pilotnet")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = zoo.model("pilotnet").state_dict()
    del state["features.2.bias"]
    state["fc.weight"], state["classifier.6.weight"] = torch.zeros(3), torch.zeros(7, 10)
    torch.save(state, tmp_path / "other.pth")
    message = (
        r"^.*other\.pth: the checkpoint does not fit PilotNet; missing: features\.2\.bias; unexpected: fc\.weight; of another shape: "
        r"classifier\.6\.weight is \(7, 10\) instead of \(1, 10\)\. Nothing was loaded\."
    )
    with pytest.raises(InputError, match=message):
        zoo.load_checkpoint(model, tmp_path / "other.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_long_lists_are_cut(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"missing: features\.0\.weight, .* and 13 more; unexpected: x\. Nothing"):
        zoo.load_checkpoint(zoo.model("pilotnet"), tmp_path / "x.pth")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "form, tensor",
    [
        ("without data (on the device meta)", lambda v: v.to("meta")),
        ("quantised (torch.qint8)", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
        ("sparse (torch.sparse_coo)", lambda v: v.to_sparse()),
        ("complex (torch.complex64)", lambda v: v.to(torch.complex64)),
    ],
)
@pytest.mark.filterwarnings("ignore")  # torch's own, of forms that it is about to drop
def test_tensors_that_are_not_plain(tmp_path, form, tensor):
    model = zoo.model("pilotnet")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: torch.rand_like(v) for k, v in before.items()}
    state["classifier.6.weight"] = tensor(state["classifier.6.weight"])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(
        InputError,
        match=rf"^.*odd\.pth: (tensor classifier\.6\.weight is {re.escape(form)}, not a plain .*|not a readable checkpoint \(.*)",
    ):
        zoo.load_checkpoint(model, tmp_path / "odd.pth")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_numpy_numbers_are_refused(tmp_path):
    """The unpickler's way to them crashes on files that are made for it."""
    model = zoo.model("pilotnet")
    torch.save({"model": model.state_dict(), "best": np.float64(0.7)}, tmp_path / "numpy.pth")
    with pytest.raises(InputError, match=r"^.*numpy\.pth: not a readable checkpoint \(UnpicklingError: .*NumPy's numbers.*"):
        zoo.load_checkpoint(model, tmp_path / "numpy.pth")


def test_unreadable_checkpoints(tmp_path):
    model = zoo.model("pilotnet")
    garbage, truncated, evil, empty = (tmp_path / n for n in ("garbage.pth", "cut.safetensors", "evil.pth", "list.pth"))
    garbage.write_bytes(b"not a checkpoint")
    save_file(model.state_dict(), truncated)
    truncated.write_bytes(truncated.read_bytes()[:-100])
    torch.save({"x": Malicious(tmp_path / "touched")}, evil)
    torch.save([torch.zeros(1)], empty)
    for path in (garbage, truncated, evil):
        with pytest.raises(InputError, match=rf"^.*{path.name}: not a readable checkpoint \("):
            zoo.load_checkpoint(model, path)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(InputError, match=r"list\.pth: holds no weights\."):
        zoo.load_checkpoint(model, empty)
    with pytest.raises(InputError, match=r"none\.pth: there is no such file\."):
        zoo.load_checkpoint(model, tmp_path / "none.pth")
