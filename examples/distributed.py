"""Sparse training with metrics, in one or several processes. The page docs/how-to/train-on-several-processes.md explains it.

python examples/distributed.py
torchrun --nproc-per-node 2 examples/distributed.py
"""

import torch
from torch import nn

import sordino as sd


class Net(nn.Sequential):
    """Two convolutions and two fully connected layers, for 8 x 8 digits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10))


torch.manual_seed(0)
digits = sd.data.digits()

plain = Net()
sd.train.fit(plain, digits.train, digits.validation, epochs=8, lr=3e-3, metrics="runs/plain", label="plain")

methods = {"stem.*": "wta", "body.*": ("star", {"quantile": 0.5}), "*": ("l1", {"strength": 3e-4})}
sparse = sd.sparsify(plain, methods, calibration=digits.train[0], cost="fanout", strength=1e-5)
sd.train.fit(sparse, digits.train, digits.validation, epochs=8, metrics="runs/sparse", checkpoint="sparse.pt", label="sparse")

if sd.train.is_main():
    for name, model in (("plain", plain), ("sparse", sparse)):
        counts = sd.nn.density(model, digits.test[0])
        densities = ", ".join(f"{path} {n / size:.2f}" for path, (n, size) in counts.items())
        print(f"{name}: accuracy {sd.train.accuracy(model, digits.test):.1%}, density {densities}")
    quantised = sd.quantize(sparse, digits.train[0][:256], arch="ulx3s-85f")
    accelerator = sd.Accelerator(sd.compile(quantised), backend="timing")
    accelerator(digits.test[0][:50])
    print(f"on the array: {accelerator.stats.total.cycles:.0f} cycles an image")
