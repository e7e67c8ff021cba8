"""The merge of sorted streams finds what a comparison of dictionaries finds, whatever the order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from cagebuild.explain import ramdisks
from tests.support.manifests import file_entry

if TYPE_CHECKING:
    from cagebuild.nitro.manifest import ManifestEntry

names = st.lists(st.sampled_from(["a", "b", "a-", "\udcff"]), min_size=1, max_size=3).map("/".join)
files = st.tuples(st.sampled_from([b"1", b"2"]), st.sampled_from([0, 1]))
trees = st.dictionaries(names, files, max_size=12).flatmap(
    lambda tree: st.permutations(sorted(tree.items()))
)
Tree = list[tuple[str, tuple[bytes, int]]]


def entries(tree: Tree) -> list[ManifestEntry]:
    return [replace(file_entry(name, content), mtime=time) for name, (content, time) in tree]


@given(expected=trees, got=trees, run=st.integers(1, 5))
def test_what_differs(expected: Tree, got: Tree, run: int) -> None:
    whole = ramdisks._RUN
    ramdisks._RUN = run
    try:
        found = ramdisks.compare(
            lambda: entries(expected), lambda: entries(got), frozenset({1}), limit=100
        )
    finally:
        ramdisks._RUN = whole
    comparison, order = found[1]
    before, after = dict(expected), dict(got)
    common = before.keys() & after.keys()
    (origin,) = comparison.origins() or (None,)
    assert (origin.added if origin else 0) == len(after.keys() - before.keys())
    assert (origin.removed if origin else 0) == len(before.keys() - after.keys())
    assert (origin.changed if origin else 0) == sum(before[n] != after[n] for n in common)
    same_order = [n for n in before if n in common] == [n for n in after if n in common]
    assert (order is None) == same_order
    told = (
        {(file.path, file.change) for file in (*origin.files, *origin.attributes)}
        if origin
        else set()
    )
    shown = {name: name.replace("\udcff", "\\xff") for name in before | after}
    assert told == {
        *((shown[n], "added") for n in after.keys() - before.keys()),
        *((shown[n], "removed") for n in before.keys() - after.keys()),
        *((shown[n], "changed") for n in common if before[n] != after[n]),
    }
