"""What the last runs were made of: read to say why a step has to run, written for the next run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cagebuild.execute.graph import in_order
from cagebuild.execute.miss import explain_miss
from cagebuild.store import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cagebuild.execute.graph import Node
    from cagebuild.step import Step
    from cagebuild.store import Session, Store

_INCOMPLETE = "0" * 64


class History:
    """The runs of some owners, the one at hand and the one before."""

    def __init__(self, store: Store, targets: Mapping[str, Sequence[Step]]) -> None:
        self._store = store
        self._targets = targets
        self._names: dict[str, dict[str, str]] = {}
        self._last: dict[str, Mapping[str, str]] = {}

    def names(self, owner: str) -> Mapping[str, str]:
        """A name for each step id of the owner: the step's own, numbered where two have one."""
        if owner not in self._names:
            taken: dict[str, int] = {}
            names = self._names[owner] = {}
            for step in in_order(self._targets[owner]).values():
                count = taken[step.name] = taken.get(step.name, 0) + 1
                names[step.id] = step.name if count == 1 else f"{step.name} ({count})"
        return self._names[owner]

    def last(self, owner: str) -> Mapping[str, str]:
        """Step ids of the owner's last run, by name."""
        if owner not in self._last:
            run = self._store.last_run(owner)
            self._last[owner] = run.steps if run else {}
        return self._last[owner]

    def why(self, node: Node, nodes: Mapping[str, Node]) -> str:
        """Why a step without a result has none, in words."""
        name = self.names(node.owner).get(node.step.id, node.step.name)
        before = self.last(node.owner).get(name)
        if before == node.step.id:
            return "its result is no longer in the store"
        known = self._store.facts(before) if before else None

        def find(step_id: str) -> Mapping[str, object] | None:
            node = nodes.get(step_id)
            return node.step.facts() if node else self._store.facts(step_id)

        return explain_miss(known, node.step.facts(), find)

    def record(self, session: Session, nodes: Mapping[str, Node]) -> None:
        """Keep each owner's run: what failed or was not reached stays as it was the last time."""
        for owner, steps in self._targets.items():
            ids = "\n".join(sorted(step.id for step in steps))
            graph = hashlib.sha256(ids.encode()).hexdigest()
            complete = all(nodes[step.id].state == "done" for step in steps)
            if complete and self._store.touch_run(owner, graph):
                continue
            now = {
                name: step_id
                for step_id, name in self.names(owner).items()
                if nodes[step_id].state in ("new", "done")
            }
            kept = self.last(owner) if not complete else {}
            run = Run(graph=graph if complete else _INCOMPLETE, steps={**kept, **now})
            session.record_run(owner, run)
