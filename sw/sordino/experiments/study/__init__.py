"""Studies: sparsity methods x strengths x seeds on one task, shared by workers on any number of machines."""

from .ladders import LADDERS, ladder
from .plan import Point, Settings
from .store import Store
from .summary import figures, summary_table
from .tasks import STUDY_TASKS, StudyTask
from .trial import run_trial
from .worker import work

__all__ = [
    "LADDERS",
    "STUDY_TASKS",
    "Point",
    "Settings",
    "Store",
    "StudyTask",
    "figures",
    "ladder",
    "run_trial",
    "summary_table",
    "work",
]
