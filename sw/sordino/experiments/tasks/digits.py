"""The handwritten digits: a small convolutional network and the recipe that the demo uses."""

import torch
from torch import Tensor, nn

from ...data import digits
from .task import Recipe, Task

__all__ = ["DIGITS", "DigitsNet", "jitter"]


class DigitsNet(nn.Module):
    """Three convolutions with batch normalisation and one fully connected layer: 5.9 million MACs an image.

    Input float [batch, 1, 8, 8], output logits [batch, 10]. conv2 has four fifths of the MACs: with 128 output channels it keeps four
    cores of 32 lanes busy for thousands of cycles, so that the start and end of a layer matter little.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(128)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(128, 64, 3, padding=1, stride=2, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.relu3 = nn.ReLU()
        self.fc = nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = self.relu3(self.bn3(self.conv3(x)))
        return self.fc(x.flatten(1))


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, scaled, sheared and moved a little: up to 0.2 rad, 12%, 0.2 and 0.8 pixels."""

    def draw(limit: float) -> Tensor:
        return (torch.rand(len(x), generator=generator) * 2 - 1) * limit

    angle, scale, shear, dx, dy = draw(0.2), 1 + draw(0.12), draw(0.2), draw(0.2), draw(0.2)
    top = torch.stack([scale * angle.cos(), shear - angle.sin(), dx], 1)
    bottom = torch.stack([angle.sin(), scale * angle.cos(), dy], 1)
    grid = nn.functional.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)


DIGITS = Task(
    name="digits",
    summary="scikit-learn's 1,797 handwritten digits, 8x8",
    build=DigitsNet,
    data=digits,
    augment=jitter,
    # An event of relu1 meets 9 taps x 4 groups of 32 output channels, one of relu2 a quarter of 9 (stride 2) x 2.
    costs={"relu1": 36.0, "relu2": 4.5, "relu3": 1.0},
    recipe=Recipe(),
)
