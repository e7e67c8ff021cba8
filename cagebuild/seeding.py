"""Giving one store what another has: results that are known by their digests alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.step import StepInput
from cagebuild.store import DamagedBlobError, Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cagebuild.step import Step
    from cagebuild.store import Store


def pinned_steps(targets: Iterable[Step]) -> dict[str, Step]:
    """By id, the steps with ``expected`` outputs that the targets need; not what makes those."""
    found: dict[str, Step] = {}
    seen: set[str] = set()
    stack = list(targets)
    while stack:
        step = stack.pop()
        if step.id in seen:
            continue
        seen.add(step.id)
        if step.expected is not None:
            found[step.id] = step
        else:
            stack += [given.step for given in step.inputs.values() if isinstance(given, StepInput)]
    return found


def seed(source: Store, target: Store, steps: Iterable[Step]) -> None:
    """Copy results from ``source`` where it has them and ``target`` doesn't; raises StoreError.

    Only steps with ``expected`` outputs: of these nothing can be learnt by running them again.
    """
    wanted = [step for step in steps if step.expected is not None]
    with Session(source, [step.id for step in wanted]), Session(target, []) as session:
        for step in wanted:
            found = source.lookup(step.id)
            if found is None or target.lookup(step.id) is not None:
                continue
            with session.scratch() as folder:
                files = {name: folder / name for name in step.outputs}
                try:
                    for name, file in files.items():
                        source.export(found.outputs[name], file)
                except DamagedBlobError:
                    continue
                session.commit(step, files)
