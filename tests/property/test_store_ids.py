"""Ids: equal facts, equal ids; any change of a fact, another id. Records: read back or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cagebuild.digest import Digest
from cagebuild.execute.miss import explain_miss
from cagebuild.step import FileInput, Input, Step, StepInput
from cagebuild.store.records import Blob, Result, seal, unseal

names = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
params = st.dictionaries(st.text(max_size=5), json_values, max_size=4)
digests = st.binary(max_size=4).map(Digest.of)
files = digests.map(lambda digest: FileInput(digest=digest, path=Path("/somewhere") / digest.hex))


@st.composite
def steps(draw: st.DrawFn, depth: int = 1) -> Step:
    """A step on files and, up to a depth, on other steps."""
    inputs: dict[str, Input] = draw(st.dictionaries(st.text(max_size=5), files, max_size=3))
    if depth:
        for name in draw(st.lists(st.text(max_size=5), max_size=2)):
            below = draw(steps(depth=depth - 1))
            inputs[name] = StepInput(step=below, output=draw(st.sampled_from(below.outputs)))
    return Step(
        kind=draw(names),
        code=draw(names),
        name=draw(st.text(max_size=5)),
        params=draw(params),
        inputs=inputs,
        outputs=tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True))),
        platform=draw(names),
    )


def changed(step: Step, **fields: object) -> Step:
    """The step with other fields."""
    own = {
        name: getattr(step, name)
        for name in ("kind", "code", "name", "params", "inputs", "outputs", "platform", "hints")
    }
    return Step(**{**own, **fields})


@given(steps())
def test_the_order_of_mappings_does_not_matter(step: Step) -> None:
    other = changed(
        step,
        params=dict(reversed(list(step.params.items()))),
        inputs=dict(reversed(list(step.inputs.items()))),
    )
    assert other.id == step.id
    assert other == step
    assert len({other, step}) == 1


@given(steps(), st.text(), params)
def test_name_hints_and_places_do_not_matter(
    step: Step, name: str, hints: dict[str, object]
) -> None:
    moved = {
        key: FileInput(digest=given.digest, path=Path("/elsewhere"))
        if isinstance(given, FileInput)
        else given
        for key, given in step.inputs.items()
    }
    assert changed(step, name=name, hints=hints, inputs=moved).id == step.id


@given(steps(), st.sampled_from(["kind", "code", "platform"]), names)
def test_every_word_matters(step: Step, field: str, word: str) -> None:
    assume(getattr(step, field) != word)
    assert changed(step, **{field: word}).id != step.id


@given(steps(), params)
def test_every_parameter_matters(step: Step, other: dict[str, object]) -> None:
    assume(repr(sorted(other.items())) != repr(sorted(step.params.items())))
    assume(seal("", other) != seal("", dict(step.params)))
    assert changed(step, params=other).id != step.id


@given(steps(), st.text(max_size=5), files)
def test_every_input_matters(step: Step, name: str, given: FileInput) -> None:
    before = step.inputs.get(name)
    assume(not isinstance(before, FileInput) or before.digest != given.digest)
    assert changed(step, inputs={**step.inputs, name: given}).id != step.id
    for key in step.inputs:
        fewer = {k: v for k, v in step.inputs.items() if k != key}
        assert changed(step, inputs=fewer).id != step.id


@given(steps(), names)
def test_outputs_matter_and_their_order_too(step: Step, name: str) -> None:
    assume(name not in step.outputs)
    assert changed(step, outputs=(*step.outputs, name)).id != step.id
    if len(step.outputs) > 1:
        assert changed(step, outputs=step.outputs[::-1]).id != step.id


@given(steps(), names)
def test_a_change_far_below_changes_every_id_above(step: Step, code: str) -> None:
    assume(step.code != code)

    def above(below: Step) -> Step:
        given = StepInput(step=below, output=below.outputs[0])
        middle = changed(step, inputs={"x": given}, params={})
        return changed(step, inputs={"y": StepInput(step=middle, output=middle.outputs[0])})

    assert above(step).id != above(changed(step, code=code)).id


@pytest.mark.parametrize(
    "value", [{1: "a"}, {"a": {None: 1}}, [1.5], [b"x"], {"a": [{2: 3}]}, {"a": {1, 2}}]
)
def test_params_that_json_would_blur_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match="step's params"):
        Step(kind="k", code="1", name="n", params={"p": value}, inputs={}, outputs=("out",))


@pytest.mark.parametrize(
    "outputs", [("a/b",), ("..",), (".",), ("",), ("a", "a"), ("a\n",), ("-a",), ("a" * 300,)]
)
def test_outputs_that_are_no_files_names_are_refused(outputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"file's name|two outputs"):
        Step(kind="k", code="1", name="n", params={}, inputs={}, outputs=outputs)


def test_an_input_that_no_step_makes_is_refused() -> None:
    below = Step(kind="k", code="1", name="below", params={}, inputs={}, outputs=("out",))
    given = StepInput(step=below, output="other")
    with pytest.raises(ValueError, match="below has no output 'other'"):
        Step(kind="k", code="1", name="n", params={}, inputs={"x": given}, outputs=("out",))


@given(steps(), st.data())
def test_a_result_is_read_back_or_refused(step: Step, data: st.DataObject) -> None:
    result = Result(
        step_id=step.id,
        name=step.name,
        outputs={
            name: Blob(digest=data.draw(digests), size=data.draw(st.integers(0, 2**63)))
            for name in step.outputs
        },
        facts=step.facts(),
    )
    written = result.encode()
    assert Result.decode(written, step.id) == result
    position = data.draw(st.integers(0, len(written) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = written[:position] + bytes([byte]) + written[position + 1 :]
    assert Result.decode(damaged, step.id) in (None, result)
    assert damaged == written or Result.decode(damaged, step.id) is None
    assert Result.decode(written[:position], step.id) is None
    assert Result.decode(written + b"x", step.id) is None


@given(st.binary(max_size=200), st.text(max_size=5))
def test_any_bytes_are_refused(data: bytes, tag: str) -> None:
    assert unseal(data, tag) is None
    assert Result.decode(data, tag) is None


@given(steps(), steps())
def test_a_difference_of_facts_is_always_explained(one: Step, other: Step) -> None:
    text = explain_miss(one.facts(), other.facts())
    assert (text == "nothing changed") == (one.id == other.id)
    assert explain_miss(one.facts(), one.facts()) == "nothing changed"
