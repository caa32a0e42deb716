"""An installed Sordino, away from its checkout: a tiny network through the compiler, all back ends agreeing."""

import numpy as np
import torch
from torch import nn

import sordino as sd

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)).eval()
x = torch.rand(32, 1, 8, 8)
program = sd.compile(sd.quantize(model, x, arch="icebreaker"))
program.save("smoke.sdn")
np.save("images.npy", x[:4].numpy())

outputs, cycles = {}, {}
for backend in ("golden", "timing", "verilator"):
    with sd.Accelerator("smoke.sdn", backend=backend) as acc:
        outputs[backend] = acc(x[:4]).numpy()
        cycles[backend] = acc.stats.total.cycles
assert np.array_equal(outputs["golden"], outputs["timing"]) and np.array_equal(outputs["golden"], outputs["verilator"])
assert cycles["timing"] == cycles["verilator"]
print(f"{sd.__file__}: golden = timing = RTL, {cycles['verilator']:.0f} cycles an image")
