"""What a strength means for each method: the option that it sets, and that option's value at strength 1."""

from collections.abc import Callable
from typing import Any

from sordino_hw.spec.errors import InputError

__all__ = ["LADDERS", "ladder"]

LADDERS: dict[str, Callable[[float], dict[str, Any]]] = {
    "relu": lambda s: {},
    "l1": lambda s: {"strength": 3e-3 * s},
    "hoyer": lambda s: {"strength": 3e-3 * s},
    "transformed-l1": lambda s: {"strength": 3e-3 * s},
    "fatrelu": lambda s: {"quantile": 1 - 0.5**s},
    "channel-thresholds": lambda s: {"strength": 5e-5 * s},
    "arts": lambda s: {"strength": 3e-3, "target": 0.3**s, "most": 1e-2},
    "star": lambda s: {"strength": 1e-4 * s, "quantile": 0.4, "per": "channel"},
    "wta": lambda s: {"rate": 0.25**s},
    "dal": lambda s: {"sp_rate": 1.0 * s, "relative": 0.5},
    "cats": lambda s: {"spatial": 3e-5 * s, "temporal": 1e-4 * s},
}
"""Options of each method by strength. A rate or a quantile stays in its range for every strength above 0."""


def ladder(method: str, strength: float) -> dict[str, Any]:
    """Options of `method` at `strength`. Raises `InputError` for an unknown method or a strength that is not positive."""
    if method not in LADDERS:
        raise InputError(f"study: unknown method {method!r}: there are {', '.join(LADDERS)}")
    if not 0 < strength < float("inf"):
        raise InputError(f"study: a strength must be positive, not {strength!r}")
    return LADDERS[method](strength)
