"""Locks: what is written is read back; whatever is read is a lock or an error with a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cagebuild import lock
from cagebuild.digest import Digest
from cagebuild.errors import LockError
from cagebuild.explain.locks import pins
from cagebuild.lock import Lock, LockedEpoch, LockedRuntime, Pinned

FILE = Path("cage.lock")
digests = st.binary(max_size=3).map(Digest.of)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
pinned = st.builds(
    Pinned, made_from=digests, kind=texts, pins=st.dictionaries(texts, values, max_size=3)
)
registers = st.binary(min_size=48, max_size=48).map(bytes.hex)
locks = st.builds(
    Lock,
    cage=texts,
    config=digests,
    architecture=st.sampled_from(["x86_64", "aarch64"]),
    epoch=st.builds(
        LockedEpoch,
        policy=st.sampled_from(["commit", "fixed", "zero", "env"]),
        time=st.integers(0, 2**32 - 1),
        inputs=digests,
    ),
    base=pinned,
    boot=pinned,
    runtime=st.none() | st.builds(LockedRuntime, installer=digests, name=texts),
    expected=st.none()
    | st.fixed_dictionaries(
        dict.fromkeys(("PCR0", "PCR1", "PCR2"), registers), optional={"PCR8": registers}
    ),
)


@given(locks)
def test_a_lock_is_read_back_and_its_text_stays(given: Lock) -> None:
    raw = given.text().encode()
    found = lock.parse(raw, FILE)
    assert found == given
    assert found.text().encode() == raw
    assert pins(found, given) == ()


@given(locks, locks)
def test_locks_that_differ_have_texts_that_do(one: Lock, other: Lock) -> None:
    assert (one.text() == other.text()) <= (one == other)


def accepted(raw: bytes) -> bool:
    """Whether it is a lock. Nothing but LockError may come of what is none."""
    failure: LockError | None = None
    try:
        found = lock.parse(raw, FILE)
    except LockError as error:
        failure = error
    if failure is None:
        assert lock.parse(found.text().encode(), FILE) == found
        return True
    assert failure.hint
    assert len(failure.render()) < 2000
    return False


@given(st.binary(max_size=200))
def test_bytes_are_no_lock(data: bytes) -> None:
    assert not accepted(data)


@given(locks, st.data())
def test_a_lock_with_any_value_changed_is_a_lock_or_refused(
    given: Lock, data: st.DataObject
) -> None:
    document: Any = json.loads(given.text())
    table = document
    while True:
        key = data.draw(st.sampled_from(sorted(table)), label="key")
        inner = table[key]
        if not isinstance(inner, dict) or not inner or data.draw(st.booleans(), label="stop"):
            break
        table = inner
    table[key] = data.draw(values | st.floats(), label="value")
    accepted(json.dumps(document).encode())


@given(locks, st.data())
def test_a_lock_cut_anywhere_is_refused(given: Lock, data: st.DataObject) -> None:
    raw = given.text().encode()
    length = data.draw(st.integers(0, len(raw) - 2))
    assert not accepted(raw[:length])


@pytest.mark.parametrize("key", ["extra", "Config", "PCR3"])
@given(given=locks)
def test_a_key_that_is_not_known_is_refused(given: Lock, key: str) -> None:
    document = json.loads(given.text())
    document[key] = 1
    assert not accepted(json.dumps(document).encode())
