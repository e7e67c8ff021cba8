"""Plans as text, JSON and graphs, with what the store has of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cagebuild.errors import UsageError
from cagebuild.execute.graph import build, in_order
from cagebuild.execute.history import History
from cagebuild.step import FileInput, StepInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cagebuild.plan import Plan
    from cagebuild.session import Session
    from cagebuild.step import Step


def text(session: Session, plans: Sequence[Plan], *, explain: bool) -> Iterator[str]:
    """Each cage's steps, inputs first: hit or miss, id, name; for misses why, if asked for."""
    targets = {session.owner(plan.cage): [plan.eif] for plan in plans}
    nodes = build(targets)
    history = History(session.store, targets)
    for plan in plans:
        yield f"{plan.cage.address}"
        for step in in_order([plan.eif]).values():
            hit = session.store.lookup(step.id) is not None
            yield f"  {'hit ' if hit else 'miss'}  {step.id[:12]}  {step.name}"
            if explain and not hit:
                node = nodes[step.id]
                node.owner = session.owner(plan.cage)
                yield f"        {history.why(node, nodes)}"


def as_json(session: Session, plans: Sequence[Plan]) -> str:
    """All that ids are made of, by cage; an input is a digest or ``step:<id>/<output>``."""
    document = {
        plan.cage.address: [
            {
                "id": step.id,
                "name": step.name,
                **step.recipe(),
                **({"expected": step.facts()["params"]} if step.expected else {}),
                "hit": session.store.lookup(step.id) is not None,
            }
            for step in in_order([plan.eif]).values()
        ]
        for plan in plans
    }
    return json.dumps(document, indent=2)


def graph(plans: Sequence[Plan], form: str) -> Iterator[str]:
    """The steps of all cages as one graph, for Mermaid or Graphviz."""
    steps = tuple(in_order([plan.eif for plan in plans]).values())
    match form:
        case "mermaid":
            return _mermaid(steps)
        case "dot":
            return _dot(steps)
        case _:
            raise UsageError(f"--format {form}: expected mermaid or dot")


def _edges(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    for step in steps:
        inputs = [given for given in step.inputs.values() if isinstance(given, StepInput)]
        for step_id in dict.fromkeys(given.step.id for given in inputs):
            yield step_id[:12], step.id[:12]


def _label(step: Step) -> str:
    files = sum(isinstance(given, FileInput) for given in step.inputs.values())
    words = f"{step.name} ({files} file{'' if files == 1 else 's'})" if files else step.name
    return words.replace('"', "'")


def _mermaid(steps: Sequence[Step]) -> Iterator[str]:
    yield "graph LR"
    for step in steps:
        yield f'  {step.id[:12]}["{_label(step)}"]'
    for source, target in _edges(steps):
        yield f"  {source} --> {target}"


def _dot(steps: Sequence[Step]) -> Iterator[str]:
    yield "digraph cages {"
    yield "  rankdir=LR; node [shape=box];"
    for step in steps:
        yield f'  "{step.id[:12]}" [label="{_label(step)}"];'
    for source, target in _edges(steps):
        yield f'  "{source}" -> "{target}";'
    yield "}"
