"""What is said of a program that failed in its sandbox, and where the rest of it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cagebuild.digest import Digest
from cagebuild.errors import ToolFailedError
from cagebuild.execute import ContainerExecutor, ProcessExecutor, Task
from cagebuild.step import FileInput, Step
from tests.support.graphs import load

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.sandbox import Job, Sandbox


class Failing:
    """A sandbox whose jobs say much and fail."""

    name = "failing"

    def run(self, job: Job) -> int:
        job.log.write(b"".join(b"line %d\n" % number for number in range(20_000)))
        return 3


def find(*, needed_for: str) -> Sandbox:
    assert needed_for == "'kernel'"
    return Failing()


def test_the_last_lines_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    logs, scratch = tmp_path / "logs", tmp_path / "scratch"
    logs.mkdir()
    scratch.mkdir()
    root = tmp_path / "root.tar"
    root.write_bytes(b"")
    given = FileInput(digest=Digest.of_file(root), path=root)
    step = Step(
        kind="container",
        code="",
        name="kernel",
        params={"argv": ["/bin/sh", "/in/build.sh"]},
        inputs={"root": given},
        outputs=("kernel",),
    )
    task = Task(
        step=step,
        inputs={"root": root},
        digests={"root": given.digest},
        hints={"logs": str(logs)},
        scratch=scratch,
        progress=lambda _done, _total: None,
        say=lambda _text: None,
    )
    with pytest.raises(ToolFailedError) as caught:
        ContainerExecutor(ProcessExecutor(load), find).run(task)
    lines = caught.value.message.splitlines()
    assert lines[0] == "exit status 3 from /bin/sh /in/build.sh (failing)"
    assert lines[1:] == [f"  line {number}" for number in range(19_980, 20_000)]
    kept = logs / f"{step.id}.txt"
    assert caught.value.hint == f"all that it said is in {kept}"
    assert kept.read_bytes().startswith(b"line 0\n")
