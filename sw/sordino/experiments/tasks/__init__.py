"""Example tasks: a network, its data and a recipe, by name; what `sordino train` and `sordino demo` train."""

from .checkpoint import Kind, Trained, load_checkpoint, save_checkpoint
from .digits import DIGITS
from .task import TASKS, Recipe, Task
from .training import train_task

TASKS[DIGITS.name] = DIGITS

__all__ = ["DIGITS", "TASKS", "Kind", "Recipe", "Task", "Trained", "load_checkpoint", "save_checkpoint", "train_task"]
