"""Flattening against a model that knows paths only, not trees."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Kind, Region, walk
from tests.support.tars import Item, archive, directory, regular, symlink

Path = PurePosixPath
_ROOT = Path()
# Kind and, for directories, the mode: None where nothing says it.
Value = tuple[str, int | str | None]


@dataclass
class Upper:
    """One layer by paths: what it has, hides, and empties."""

    entries: dict[Path, Value] = field(default_factory=dict)
    hidden: set[Path] = field(default_factory=set)
    opaque: set[Path] = field(default_factory=set)
    items: list[Item | bytes] = field(default_factory=list)

    def directories(self) -> set[Path]:
        """All that must be directories: with an entry, or above something."""
        have = {path for path, (kind, _) in self.entries.items() if kind == "d"} | self.opaque
        below = {*self.entries, *self.hidden, *self.opaque}
        return (have | {parent for path in below for parent in path.parents}) - {_ROOT}


_path = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda parts: Path(*parts))
_action = st.tuples(st.sampled_from("fffdddlwo"), _path, st.integers(0, 0o7777))


@st.composite
def _uppers(draw: st.DrawFn, number: int) -> Upper:
    """A layer that Docker can unpack: no name twice, nothing below what is no directory."""
    upper = Upper()
    for kind, path, mode in draw(st.lists(_action, max_size=7)):
        directories = upper.directories()
        leaves = {p for p, (k, _) in upper.entries.items() if k != "d"} | upper.hidden
        if leaves & set(path.parents):
            continue
        match kind:
            case "w" if path not in directories | leaves:
                upper.hidden.add(path)
                upper.items.append(regular(str(path.parent / f".wh.{path.name}")))
            case "o" if path not in leaves:
                upper.opaque.add(path)
                upper.items.append(regular(str(path / ".wh..wh..opq")))
            case "d" if path not in upper.entries and path not in upper.hidden:
                upper.entries[path] = ("d", mode)
                upper.items.append(directory(str(path), mode=mode))
            case "f" | "l" if path not in upper.entries and path not in directories:
                text = f"{number} {path}"
                upper.entries[path] = (kind, text)
                made = (
                    regular(str(path), text.encode()) if kind == "f" else symlink(str(path), text)
                )
                upper.items.append(made)
            case _:
                pass
    return upper


def _model(layers: list[Upper]) -> dict[Path, Value]:
    result: dict[Path, Value] = {}
    for upper in layers:
        directories = upper.directories()
        leaves = {p for p, (kind, _) in upper.entries.items() if kind != "d"} | upper.hidden
        for path in list(result):
            above = set(path.parents)
            replaced = path in directories and result[path][0] != "d"
            # Below a lower leaf there is nothing, so only what the upper layer has can hide.
            if above & (leaves | upper.opaque) or path in leaves or replaced:
                del result[path]
        for path in directories:
            result.setdefault(path, ("d", 0o755))
        result |= upper.entries
    return result


def _shape(layers: list[Upper]) -> dict[Path, Value]:
    regions = [Region.of_bytes(archive(*upper.items)) for upper in layers]
    root = flatten([Layer(region=region, name="layer", origin="") for region in regions])
    shape: dict[Path, Value] = {}
    for name, node in walk(root):
        path = Path(name.decode())
        match node.kind:
            case Kind.DIRECTORY:
                shape[path] = ("d", node.mode)
            case Kind.FILE:
                shape[path] = ("f", b"".join(node.read()).decode())
            case Kind.SYMLINK:
                shape[path] = ("l", node.target.decode())
            case _:
                raise AssertionError(node.kind)
    return shape


_layers = st.tuples(*(_uppers(number) for number in range(4))).map(list)


@given(_layers)
@settings(deadline=None, max_examples=200)
def test_flattening_agrees_with_the_model(layers: list[Upper]) -> None:
    assert _shape(layers) == _model(layers)


_raw_name = st.lists(
    st.sampled_from([b"a", b"b", b"c", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b".wh."]),
    min_size=1,
    max_size=4,
).map(b"/".join)
_raw_item = st.builds(
    Item,
    name=_raw_name.filter(bool),
    kind=st.sampled_from([b"0", b"1", b"2", b"3", b"5"]),
    link=_raw_name,
)


@given(st.lists(st.lists(_raw_item, max_size=6), max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_layers_are_flattened_or_refused(layers: list[list[Item | bytes]]) -> None:
    regions = [Region.of_bytes(archive(*items)) for items in layers]
    try:
        root = flatten([Layer(region=region, name="layer", origin="") for region in regions])
    except ImageError:
        return
    names: dict[int, int] = {}
    for path, node in walk(root):
        parts = path.split(b"/")
        assert not {b"", b".", b".."} & set(parts)
        assert not any(part.startswith(b".wh.") for part in parts)
        assert node.kind is not Kind.CHARACTER
        names[id(node)] = names.get(id(node), 0) + 1
    assert all(node.links == names[id(node)] for _, node in walk(root))
