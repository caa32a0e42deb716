"""The one error hierarchy: every refusal that a user can cause is a `SordinoError`.

The command line prints the message of a `SordinoError` as one paragraph and exits with code 2; it never
prints a traceback for one. A message names the thing at fault, the limit it breaks and the remedy.
"""

__all__ = ["ArchError", "BinaryError", "CompileError", "InputError", "SordinoError", "ToolError", "TrapError"]


class SordinoError(Exception):
    """Base class of every error caused by input: a model, a file, an array, a missing tool."""


class ArchError(SordinoError, ValueError):
    """An `ArchConfig` breaks a rule, or two configurations that must agree differ."""


class BinaryError(SordinoError):
    """A `.sdn` file is truncated, corrupt, of another version, or breaks a bound."""


class CompileError(SordinoError):
    """A model holds an operator that is not supported, or does not fit the architecture."""


class InputError(SordinoError, ValueError):
    """An array handed to the run time has the wrong shape, dtype or contents."""


class ToolError(SordinoError):
    """A program that a back end needs (g++, Verilator, ...) is missing or failed."""


class TrapError(SordinoError):
    """The machine stopped in a trap. `cause` is the `isa.Trap`, `pc` the instruction index."""

    def __init__(self, message: str, cause=None, pc: int | None = None):
        super().__init__(message)
        self.cause = cause
        self.pc = pc
