"""Running what the store does not have."""

from cagebuild.execute.container import ContainerExecutor
from cagebuild.execute.executor import Executor, ProcessExecutor, Task
from cagebuild.execute.outcome import Outcome, Status, Summary
from cagebuild.execute.run import Export, Reporter, execute

__all__ = [
    "ContainerExecutor",
    "Executor",
    "Export",
    "Outcome",
    "ProcessExecutor",
    "Reporter",
    "Status",
    "Summary",
    "Task",
    "execute",
]
