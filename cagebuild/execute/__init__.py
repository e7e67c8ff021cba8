"""Running what the store does not have."""

from cagebuild.execute.container import ContainerExecutor
from cagebuild.execute.engine import EngineExecutor
from cagebuild.execute.executor import Executor, ProcessExecutor, Task
from cagebuild.execute.outcome import Outcome, Status, Summary
from cagebuild.execute.run import Export, Reporter, execute

__all__ = [
    "ContainerExecutor",
    "EngineExecutor",
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
