"""Your own network, from a plain `nn.Module` to measured cycles. The page docs/tutorials/own-network.md explains it."""

import torch
from torch import nn

import sordino as sd


class Net(nn.Module):
    """A small residual network with a depthwise layer, for 8 x 8 digits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.join = nn.ReLU()
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.join(x + self.body(x)))


torch.manual_seed(0)
digits = sd.data.digits()
x, labels = digits.test

report = sd.check(Net().eval(), x[:1], arch="ulx3s-85f")
print(report)

plain = Net()
sd.train.fit(plain, digits.train, digits.validation, epochs=8, lr=3e-3)
sparse = sd.sparsify(plain, method="star", calibration=digits.train[0], strength=1e-4, quantile=0.5)
sd.train.fit(sparse, digits.train, digits.validation, epochs=8, lr=1e-3)

for name, model, dense in (("dense mode", plain, True), ("plain ReLU", plain, False), ("STAR", sparse, False)):
    quantised = sd.quantize(model, digits.train[0], arch="ulx3s-85f")
    program = sd.compile(quantised, dense=dense)
    acc = sd.Accelerator(program, backend="timing")
    correct = (acc(x).argmax(1) == labels).float().mean()
    total = acc.stats.total
    print(f"{name}: accuracy {correct:.1%}, density {total.density:.2f}, {total.cycles:.0f} cycles an image, η {total.eta:.2f}")

print(sd.compare(sparse, quantised, x[:16]))
with sd.Accelerator(program, backend="verilator") as rtl:
    print(sd.compare(sd.Accelerator(program, backend="golden"), rtl, x[:4]))
    rtl(x[:4])
    for layer in rtl.stats.layers:
        print(f"{layer.name}: {layer.cycles:.0f} cycles, density {layer.density:.2f}")

program.save("own_network.sdn")
