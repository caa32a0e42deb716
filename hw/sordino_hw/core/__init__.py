"""The event-driven core: sequencer, fetch, issue, lanes and post-processing."""

from .core import Core

__all__ = ["Core"]
