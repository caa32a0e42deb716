"""What can be compiled: one file an operator family, and this list of them.

A file holds all that the compiler knows of its operators: the rules that a call must keep (a rule's docstring is the user's
message and a row of `docs/reference/operators.md`), the layer that it becomes, what the quantiser asks of that, its meaning on
integers, and the images and registers of its operations. See `docs/how-to/add-an-operator.md`.
"""

from . import activation, add, affine, average, conv, conv_transpose, maxpool, prelu, rearrange, reduce, resize
from .conv import Conv, Relayout
from .lanewise import Depthwise, Lanewise
from .maxpool import MaxPool
from .operator import OPERATORS
from .rearrange import Concat, Flatten, Slice

__all__ = ["FAMILIES", "HINTS", "OPERATORS", "Concat", "Conv", "Depthwise", "Flatten", "Lanewise", "MaxPool", "Relayout", "Slice"]

FAMILIES = (conv, conv_transpose, affine, add, activation, prelu, maxpool, average, reduce, resize, rearrange)
"""In the order of `docs/reference/operators.md`."""

HINTS = {
    "softmax": "Return the logits and apply softmax on the host.",
    "log_softmax": "Return the logits and apply log_softmax on the host.",
    "argmax": "Return the logits and take argmax on the host.",
    **dict.fromkeys(
        ("var", "std", "var_mean", "std_mean"),
        "Write the variance as x.square().mean(d) - x.mean(d).square() and take its root behind the model; to normalise, use "
        "nn.BatchNorm2d, which folds into the convolution.",
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm"), "Write x.square().sum(d, keepdim=True) and take its root behind the model."),
    **dict.fromkeys(
        ("median", "mode", "kthvalue", "topk", "sort", "quantile"),
        "The array does not sort. Use a mean or a maximum, or sort behind the model.",
    ),
    "logsumexp": "Use x.amax(d), which it approaches, or take it behind the model.",
    "prod": "Products of activations do not map: use a sum, or take the product behind the model.",
    "fractional_max_pool2d": "Its windows are random. Use nn.AdaptiveMaxPool2d of the same output size.",
    "max_unpool2d": "Use nn.Upsample, or nn.ConvTranspose2d with stride 2.",
    "upsample_bilinear2d": "Use nn.Upsample(mode='nearest').",
    "layer_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "group_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "instance_norm": "Use nn.BatchNorm2d, which folds into the convolution.",
    "matmul": "The array multiplies activations by constant weights; use nn.Linear or nn.Conv2d.",
    "bmm": "The array multiplies activations by constant weights; use nn.Linear or nn.Conv2d.",
    "scaled_dot_product_attention": "The array multiplies activations by constant weights; attention does not map.",
    "lstm": "Recurrent layers do not map; use convolutions over a window of frames.",
    "gru": "Recurrent layers do not map; use convolutions over a window of frames.",
    "conv3d": "Use nn.Conv2d on each frame.",
}
"""What to do instead of some operators that are not supported."""
