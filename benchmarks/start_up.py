"""What a command costs before it does anything: processor seconds as ratios to those of `import torch`, and of `sordino.check` to an export.

    python benchmarks/start_up.py --json start_up.json

Each program runs several times, and the least counts: what comes on top of it is the machine's.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMITS = {"--help": 1 / 7, "Tab": 1 / 7, "disasm": 1 / 7, "doctor": 1 / 7, "import sordino": 1.15, "check": 2.5}
"""What each ratio must not exceed."""

NETWORK = """
import torch, sordino as sd
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).eval()
sd.compile(sd.quantize(model, torch.rand(8, 3, 8, 8))).save("net.sdn")
"""


def processor_seconds(command: list[str], folder: str, repeats: int, environment: dict[str, str] | None = None) -> float:
    """The least processor time, user and system, of a program and its children."""
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def check_ratio(repeats: int) -> tuple[float, float]:
    """Processor seconds of one `torch.export.export` of MobileNetV2, and of `sordino.check` of it."""
    import torch

    import sordino as sd
    from sordino import zoo

    model, example = zoo.model("mobilenet_v2").eval(), torch.zeros(1, 3, 224, 224)
    sd.check(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8))  # what is imported once is not counted

    def least(work) -> float:
        times = []
        for _ in range(repeats):
            begin = time.process_time()
            work()
            times.append(time.process_time() - begin)
        return min(times)

    return least(lambda: torch.export.export(model, (example,))), least(lambda: sd.check(model, example))


def measure(repeats: int, with_check: bool) -> dict:
    """All figures: seconds by name, and ratios with their limits."""
    command = [sys.executable, "-c", "from sordino.cli import main; main()"]
    tab = {"_SORDINO_COMPLETE": "bash_complete", "COMP_WORDS": "sordino train --me", "COMP_CWORD": "2"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", NETWORK], cwd=folder, check=True)
        seconds = {
            "import torch": processor_seconds([sys.executable, "-c", "import torch"], folder, repeats),
            "import sordino": processor_seconds([sys.executable, "-c", "import torch, sordino"], folder, repeats),
            "--help": processor_seconds([*command, "--help"], folder, repeats),
            "Tab": processor_seconds(command, folder, repeats, tab),
            "disasm": processor_seconds([*command, "disasm", "net.sdn"], folder, repeats),
            "doctor": processor_seconds([*command, "doctor"], folder, repeats),
        }
    ratios = {name: value / seconds["import torch"] for name, value in seconds.items() if name != "import torch"}
    if with_check:
        seconds["export of MobileNetV2"], seconds["check"] = check_ratio(min(repeats, 2))
        ratios["check"] = seconds["check"] / seconds["export of MobileNetV2"]
    return {
        "python": sys.version.split()[0],
        "repeats": repeats,
        "seconds": seconds,
        "ratios": {name: {"ratio": r, "limit": LIMITS[name], "ok": r <= LIMITS[name]} for name, r in ratios.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of each program (default: %(default)s)")
    parser.add_argument("--no-check", action="store_true", help="leave out sordino.check of MobileNetV2, the slowest figure")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = measure(arguments.repeats, not arguments.no_check)
    for name, value in figures["seconds"].items():
        print(f"{name:24} {value:7.3f} s")
    for name, r in figures["ratios"].items():
        print(f"{name:24} {r['ratio']:7.3f}   at most {r['limit']:.3f}{'' if r['ok'] else '   exceeded'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(r["ok"] for r in figures["ratios"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
