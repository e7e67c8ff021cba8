"""Why a step ran: the setting or file that began it, however far below."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cagebuild.execute.miss import explain_miss
from cagebuild.store import Store
from tests.support.graphs import Recorder, build, source, step

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.step import Step


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def chain(folder: Path, *, text: str = "v1", port: int = 80, code: str = "1") -> Step:
    """``image`` on ``layer`` on a source file, and on ``settings``."""
    layer = step("layer", inputs={"app/main.py": source(folder / "main.py", text.encode())})
    settings = step("settings", params={"text": "s", "env": {"PORT": port}}, code=code)
    return step("image", inputs={"layer": layer, "settings": settings})


def why(store: Store, top: Step, owner: str = "//cage") -> dict[str, str]:
    """What each step that ran says."""
    recorder = Recorder()
    build(store, top, recorder=recorder, owner=owner)
    return {o.step.name: o.why for o in recorder.outcomes if o.status == "ran"}


def test_the_first_time(store: Store, tmp_path: Path) -> None:
    assert set(why(store, chain(tmp_path)).values()) == {"not built before"}


def test_a_source_file(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path))
    assert why(store, chain(tmp_path, text="v2")) == {
        "layer": "input app/main.py changed",
        "image": "input layer: input app/main.py changed",
    }


def test_a_setting(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path))
    assert why(store, chain(tmp_path, port=81)) == {
        "settings": "env.PORT 80 → 81",
        "image": "input settings: env.PORT 80 → 81",
    }


def test_the_code(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path))
    assert why(store, chain(tmp_path, code="2")) == {
        "settings": "cagebuild's own code changed",
        "image": "cagebuild's own code changed",
    }


def test_several_things(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path))
    assert why(store, chain(tmp_path, text="v2", port=81))["image"] == (
        "input layer: input app/main.py changed; input settings: env.PORT 80 → 81"
    )


def test_back_and_forth(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path))
    build(store, chain(tmp_path, text="v2"))
    assert why(store, chain(tmp_path)) == {}
    assert why(store, chain(tmp_path, text="v3"))["layer"] == "input app/main.py changed"


def test_a_result_that_was_removed(store: Store, tmp_path: Path) -> None:
    top = chain(tmp_path)
    build(store, top)
    store.result_path(top.id).unlink()
    assert why(store, top) == {"image": "its result is no longer in the store"}


def test_against_the_last_run_of_the_same_cage(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path, port=1), owner="//one")
    build(store, chain(tmp_path, port=2), owner="//two")
    assert why(store, chain(tmp_path, port=3), owner="//one")["settings"] == "env.PORT 1 → 3"


def test_a_failed_run_does_not_hide_the_last_good_one(store: Store, tmp_path: Path) -> None:
    build(store, chain(tmp_path, port=1))
    broken = step("image", "fail", inputs={"s": step("settings", "fail")})
    build(store, broken)
    assert why(store, chain(tmp_path, port=2))["settings"] == "env.PORT 1 → 2"


def test_two_steps_of_one_name(store: Store, tmp_path: Path) -> None:
    def top(first: int, second: int) -> Step:
        both = {
            "a": step("same", params={"which": "a", "value": first}),
            "b": step("same", params={"which": "b", "value": second}),
        }
        return step("top", inputs=both)

    build(store, top(1, 1))
    recorder = Recorder()
    build(store, top(1, 2), recorder=recorder)
    assert recorder.outcomes[1].why == "value 1 → 2"


def test_records_that_are_gone_or_damaged_cost_the_reason_only(
    store: Store, tmp_path: Path
) -> None:
    build(store, chain(tmp_path))
    store.run_path("//cage").write_bytes(b"{}")
    assert why(store, chain(tmp_path, port=81))["settings"] == "not built before"
    top = chain(tmp_path, port=82)
    for path in (store.root / "results").rglob("*/*"):
        path.unlink()
    assert why(store, top)["settings"] == "not built before"


class TestWords:
    def facts(self, **changes: object) -> dict[str, object]:
        return {
            "kind": "k",
            "code": "1",
            "params": {"list": [1, 2], "gone": True},
            "inputs": {"a": "sha256:aa"},
            "outputs": ["out"],
            "platform": "x86_64",
            **changes,
        }

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, "nothing changed"),
            ({"kind": "l"}, 'kind "k" → "l"'),
            ({"platform": "aarch64"}, 'platform "x86_64" → "aarch64"'),
            ({"outputs": ["out", "b"]}, 'outputs ["out"] → ["out", "b"]'),
            ({"params": {"list": [1, 3], "gone": True}}, "list[1] 2 → 3"),
            ({"params": {"list": [1], "gone": True}}, "list [1, 2] → [1]"),
            ({"params": {"list": [1, 2]}}, "gone is gone: was true"),
            ({"params": {"list": [1, 2], "gone": True, "x": 1}}, "x is new: 1"),
            ({"params": {"list": [1, 2], "gone": 1}}, "gone true → 1"),
            ({"inputs": {}}, "input a is gone"),
            ({"inputs": {"a": "sha256:aa", "b": "sha256:bb"}}, "input b is new"),
            ({"inputs": {"a": "step:1/out"}}, "input a changed"),
        ],
    )
    def test_each_kind_of_change(self, changes: dict[str, object], words: str) -> None:
        assert explain_miss(self.facts(), self.facts(**changes)) == words

    def test_many_changes_are_counted(self) -> None:
        before = self.facts(inputs={f"f{n}": f"sha256:{n}" for n in range(9)})
        after = self.facts(inputs={f"f{n}": f"sha256:1{n}" for n in range(9)})
        assert explain_miss(before, after) == (
            "input f0 changed; input f1 changed; input f2 changed; and 6 more"
        )

    def test_long_values_are_cut(self) -> None:
        text = explain_miss(self.facts(params={"p": "a"}), self.facts(params={"p": "b" * 999}))
        assert len(text) < 80
