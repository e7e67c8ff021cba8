"""COPY and ADD on any trees: nothing but a CageError, and a tree that holds together."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cagebuild.dockerfile.parse import parse
from cagebuild.embedded.build import Built, build
from cagebuild.errors import CageError
from cagebuild.image.tree import Kind, walk
from tests.support.dockerfile_golden import lines
from tests.support.dockerfile_table import Case, Entry, folder, link, text
from tests.support.embedded import no_images
from tests.support.tars import Item, archive, directory, hard_link, symlink

_name = st.sampled_from(["a", "b", "c"])
_path = st.lists(_name, min_size=1, max_size=3).map("/".join)
_target = st.tuples(st.sampled_from(["", "/", "../"]), _path).map("".join)
_entry = st.one_of(
    st.builds(text, st.sampled_from(["x", "y"]), st.sampled_from([0o644, 0o755])),
    st.builds(link, _target),
    st.just(folder()),
)
_item = st.one_of(
    st.builds(
        lambda path, uid: Item(name=path.encode(), data=b"t", uid=uid), _path, _name.map(ord)
    ),
    st.builds(directory, _path, st.sampled_from([0o700, 0o755])),
    st.builds(symlink, _path, _target),
    st.builds(hard_link, _path, _path),
)
_source = st.one_of(_path, st.sampled_from([".", "*", "a*", "*/b", "[^a]", "t.tar"]))
_destination = st.tuples(st.sampled_from(["", "/"]), _path, st.sampled_from(["", "/"])).map("".join)
_flags = st.sampled_from(
    ["", "--link ", "--chmod=711 ", "--chown=1:2 ", "--parents ", "--exclude=b ", "--chmod=g=u "]
)
_line = st.one_of(
    st.tuples(st.just("COPY "), _flags, _source, st.just(" "), _destination).map("".join),
    st.tuples(st.just("ADD t.tar "), _destination).map("".join),
    st.tuples(st.just("WORKDIR "), _destination).map("".join),
    st.tuples(st.just("COPY --from=0 /"), _path, st.just(" "), _destination).map("".join),
)


@st.composite
def _contexts(draw: st.DrawFn) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path, entry in draw(st.lists(st.tuples(_path, _entry), max_size=8)):
        if not any(f"{path}/".startswith(f"{old}/") or old.startswith(f"{path}/") for old in found):
            found[path] = entry
    found["t.tar"] = Entry(data=archive(*draw(st.lists(_item, min_size=1, max_size=6))))
    return found


@settings(max_examples=400, deadline=None)
@given(_contexts(), st.lists(_line, max_size=3), st.lists(_line, min_size=1, max_size=4))
def test_any_copy(context: dict[str, Entry], first: list[str], second: list[str]) -> None:
    below = [line for line in first if "--from" not in line]
    dockerfile = "\n".join(["FROM scratch", *below, "FROM scratch", *second, ""])
    case = Case(name="", dockerfile=dockerfile.encode(), context=context)
    image = _made(case)
    if image is None:
        return
    again = _made(case)
    assert again is not None
    assert lines(image.root) == lines(again.root)
    names = Counter(node for _, node in walk(image.root) if node.kind is not Kind.DIRECTORY)
    assert all(node.links == count for node, count in names.items())
    brought = {node.origin.partition(" ")[0] for _, node in walk(image.root)}
    assert all(origin.startswith("Dockerfile:") for origin in brought)


def _made(case: Case) -> Built | None:
    tree = case.context_tree()
    before = lines(tree)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            image = build(
                parse(case.dockerfile, Path("Dockerfile")),
                target=None,
                context=tree,
                images=no_images,
                args={},
                architecture="x86_64",
                epoch=0,
                scratch=Path(scratch),
            )
        except CageError:
            image = None
    assert lines(tree) == before, "the context was changed"
    return image
