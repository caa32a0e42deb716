"""The PyTorch front end: exported graphs to integer graphs."""

from .capture import capture
from .inspection import Inspection, NodeReport, inspect, provisional_graph
from .quantised import from_exported, lower_quantised

__all__ = ["Inspection", "NodeReport", "capture", "from_exported", "inspect", "lower_quantised", "provisional_graph"]
