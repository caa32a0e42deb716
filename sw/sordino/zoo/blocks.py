"""What several networks are built of, and the checks of their arguments."""

from torch import nn

from sordino_hw.spec.errors import InputError

__all__ = ["activation_module", "choice", "conv_bn", "divisible", "initialise", "positive"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU}


def activation_module(name: str) -> nn.Module:
    """A new activation: "relu", "relu6" or "silu"."""
    return _ACTIVATIONS[name]()


def choice(option: str, value: object, allowed: tuple) -> None:
    """Raises `InputError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise InputError(f"{option} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def positive(option: str, value: object) -> None:
    """Raises `InputError` unless `value` is a number above 0, and whole if the option counts something."""
    whole = option.startswith("num_")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
        raise InputError(f"{option} must be a {'whole ' if whole else ''}number above 0, not {value!r}")


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to a scaled number of channels, never more than 10% below it (MobileNetV2's rule)."""
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * channels else near


def conv_bn(inputs: int, outputs: int, kernel: int, activation: str = "", **conv) -> list[nn.Module]:
    """Convolution without bias, batch norm and, if one is named, an activation. `conv`: stride, padding, dilation, groups."""
    modules: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, bias=False, **conv), nn.BatchNorm2d(outputs)]
    return modules + ([activation_module(activation)] if activation else [])


def initialise(model: nn.Module, linear_std: float | None = None) -> None:
    """He's initialisation (fan out) of convolutions, without biases; fully connected layers N(0, linear_std), if it is given."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, 0, linear_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
