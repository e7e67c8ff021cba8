"""Every Dockerfile of the table: what BuildKit made of it is what is made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cagebuild.image.tree import walk
from tests.support.dockerfile_golden import facts, lines, load
from tests.support.dockerfile_table import CASES, Case
from tests.support.embedded import built

GOLDEN = load()


def test_every_case_has_a_record_and_every_record_a_case() -> None:
    assert sorted(GOLDEN) == sorted(case.name for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_image_is_that_of_buildkit(case: Case, tmp_path: Path) -> None:
    context = case.context_tree()
    image = built(case.dockerfile, tmp_path, context=context, args=case.args, target=case.target)
    assert facts(image.root, image.config) == GOLDEN[case.name]
    assert {node.mtime for _, node in walk(image.root)} <= {5}
    assert image.root.mtime == 5
    assert lines(context) == lines(case.context_tree()), "the context was changed"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_context_is_the_same_on_disk(case: Case, tmp_path: Path) -> None:
    case.write_context(tmp_path)
    for name, entry in case.context.items():
        path = tmp_path / name
        if entry.target:
            assert path.readlink() == Path(entry.target)
        else:
            assert path.is_dir() == entry.folder
            assert path.stat().st_mode & 0o7777 == entry.mode
