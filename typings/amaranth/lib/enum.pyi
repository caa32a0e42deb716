"""`amaranth.lib.enum` as a type checker should see it: the standard enumerations, with a `shape=` class keyword."""

import enum
from typing import Any

auto = enum.auto
unique = enum.unique

class EnumType(enum.EnumMeta):
    def as_shape(cls) -> Any: ...

EnumMeta = EnumType

# A base without members is what mypy warns of here ("misc"), and what these are.
class Enum(enum.Enum, metaclass=EnumType):  # type: ignore[misc]
    def __init_subclass__(cls, *, shape: Any = ..., view_class: Any = ...) -> None: ...

class IntEnum(enum.IntEnum, metaclass=EnumType):  # type: ignore[misc]
    def __init_subclass__(cls, *, shape: Any = ..., view_class: Any = ...) -> None: ...

class Flag(enum.Flag, metaclass=EnumType):  # type: ignore[misc]
    def __init_subclass__(cls, *, shape: Any = ..., view_class: Any = ...) -> None: ...

class IntFlag(enum.IntFlag, metaclass=EnumType):  # type: ignore[misc]
    def __init_subclass__(cls, *, shape: Any = ..., view_class: Any = ...) -> None: ...
