"""Flattening: a table of awkward layers, each with what Docker makes of it."""

from __future__ import annotations

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, components, flatten, set_times
from cagebuild.image.tree import Kind, Node, Region, walk
from tests.support.tars import (
    Item,
    archive,
    device,
    directory,
    hard_link,
    pax,
    regular,
    symlink,
)

Items = list[Item | bytes]


def _layers(*layers: Items) -> list[Layer]:
    return [
        Layer(region=Region.of_bytes(archive(*items)), name=f"layer {number}", origin=f"L{number}")
        for number, items in enumerate(layers, 1)
    ]


def _flat(*layers: Items) -> Node:
    return flatten(_layers(*layers), implied_time=77)


def _shape(root: Node) -> dict[str, str]:
    """Path to ``d``, ``f:content``, ``l:target``, ``c:1,3``, …"""
    shape = {}
    for path, node in walk(root):
        match node.kind:
            case Kind.DIRECTORY:
                text = "d"
            case Kind.FILE:
                text = "f:" + b"".join(node.read()).decode()
            case Kind.SYMLINK:
                text = "l:" + node.target.decode()
            case Kind.FIFO:
                text = "p"
            case _:
                text = ("c" if node.kind is Kind.CHARACTER else "b") + ":{},{}".format(*node.rdev)
        shape[path.decode("utf-8", "surrogateescape")] = text
    return shape


def _at(root: Node, path: str) -> Node:
    return dict(walk(root))[path.encode()]


AWKWARD: dict[str, tuple[list[Items], dict[str, str]]] = {
    "no layers": ([], {}),
    "an empty layer": ([[]], {}),
    "names with ./, //, a leading slash and a trailing one": (
        [[directory("./a"), regular("//a//b", b"1"), regular("/c", b"2"), directory("e//")]],
        {"a": "d", "a/b": "f:1", "c": "f:2", "e": "d"},
    ),
    "names with .. stay inside the root": (
        [[regular("../../x", b"1"), regular("a/../y", b"2"), regular("a/b/../../../z", b"3")]],
        {"x": "f:1", "y": "f:2", "z": "f:3"},
    ),
    "names that are not UTF-8": ([[regular(b"\xff\n", b"1")]], {"\udcff\n": "f:1"}),
    "an entry for the root is ignored": ([[directory("./", mode=0o700)]], {}),
    "a whiteout removes a file": ([[regular("x"), regular("y")], [regular(".wh.x")]], {"y": "f:"}),
    "a whiteout removes a directory and its contents": (
        [[directory("d"), regular("d/x"), directory("d/e")], [regular(".wh.d")]],
        {},
    ),
    "a whiteout of nothing": (
        [[regular("y")], [regular(".wh.x"), regular("d/.wh.x")]],
        {"y": "f:", "d": "d"},
    ),
    "a whiteout in a directory that its layer replaces": (
        [[regular("d", b"file")], [directory("d"), regular("d/.wh.x"), regular("d/y", b"1")]],
        {"d": "d", "d/y": "f:1"},
    ),
    "a whiteout, then the name: the name is there": (
        [[regular("x", b"old")], [regular(".wh.x"), regular("x", b"new")]],
        {"x": "f:new"},
    ),
    "a whiteout of a file, then a directory of that name": (
        [[regular("x", b"old")], [regular(".wh.x"), directory("x"), regular("x/y", b"1")]],
        {"x": "d", "x/y": "f:1"},
    ),
    "a whiteout that is a directory entry": (
        [[regular("x"), regular("y")], [directory(".wh.x")]],
        {"y": "f:"},
    ),
    "a whiteout spares what comes in a later layer": (
        [[regular("x", b"1")], [regular(".wh.x")], [regular("x", b"3")]],
        {"x": "f:3"},
    ),
    "a character device 0:0 is a whiteout": (
        [[directory("d"), regular("d/x")], [device("d", 0, 0)]],
        {},
    ),
    "a character device 0:0 in the lowest layer is nothing": ([[device("d", 0, 0)]], {}),
    "other devices are devices, a block device 0:0 too": (
        [[device("n", 1, 3), device("b", 8, 1, b"4"), device("z", 0, 0, b"4")]],
        {"n": "c:1,3", "b": "b:8,1", "z": "b:0,0"},
    ),
    "an opaque directory hides all lower contents": (
        [
            [directory("d"), regular("d/x"), directory("d/e"), regular("d/e/y")],
            [directory("d"), regular("d/.wh..wh..opq"), regular("d/z", b"1")],
        ],
        {"d": "d", "d/z": "f:1"},
    ),
    "an opaque mark after the directory's new contents": (
        [[regular("d/x")], [regular("d/z", b"1"), regular("d/.wh..wh..opq")]],
        {"d": "d", "d/z": "f:1"},
    ),
    "an opaque mark in a subdirectory leaves its siblings": (
        [
            [regular("d/keep", b"1"), regular("d/e/old")],
            [directory("d/e"), regular("d/e/.wh..wh..opq")],
        ],
        {"d": "d", "d/keep": "f:1", "d/e": "d"},
    ),
    "an opaque mark at the root does nothing": (
        [[regular("x", b"1")], [regular(".wh..wh..opq")]],
        {"x": "f:1"},
    ),
    "a directory becomes a file": (
        [[directory("d"), regular("d/x")], [regular("d", b"1")]],
        {"d": "f:1"},
    ),
    "a file becomes a directory": (
        [[regular("d", b"1")], [directory("d"), regular("d/x", b"2")]],
        {"d": "d", "d/x": "f:2"},
    ),
    "a directory becomes a symlink": (
        [[directory("d"), regular("d/x")], [symlink("d", "e")]],
        {"d": "l:e"},
    ),
    "an entry through a symlink of a lower layer makes a directory instead": (
        [[directory("usr/lib"), symlink("lib", "usr/lib")], [regular("lib/x", b"1")]],
        {"usr": "d", "usr/lib": "d", "lib": "d", "lib/x": "f:1"},
    ),
    "an entry through a symlink of its layer lands at the target": (
        [[directory("usr/lib"), symlink("lib", "usr/lib"), regular("lib/x", b"1")]],
        {"usr": "d", "usr/lib": "d", "usr/lib/x": "f:1", "lib": "l:usr/lib"},
    ),
    "an entry through an absolute symlink lands inside the root": (
        [[directory("etc"), symlink("out", "/etc"), regular("out/passwd", b"1")]],
        {"etc": "d", "etc/passwd": "f:1", "out": "l:/etc"},
    ),
    "an entry through a symlink above the root lands inside it": (
        [[directory("etc"), symlink("a/out", "../../../../etc"), regular("a/out/x", b"1")]],
        {"etc": "d", "etc/x": "f:1", "a": "d", "a/out": "l:../../../../etc"},
    ),
    "missing directories behind a symlink's target are made": (
        [[directory("d"), symlink("l", "d"), regular("l/new/x", b"1")]],
        {"d": "d", "l": "l:d", "d/new": "d", "d/new/x": "f:1"},
    ),
    "a symlink through a symlink": (
        [[directory("d/e"), symlink("a", "d"), symlink("b", "a/./e"), regular("b/x", b"1")]],
        {"d": "d", "d/e": "d", "d/e/x": "f:1", "a": "l:d", "b": "l:a/./e"},
    ),
    ".. in a symlink's target goes up from where it stands": (
        [
            [
                directory("p/q"),
                directory("p/r"),
                symlink("l", "p/q"),
                symlink("m", "l/../r"),
                regular("m/x", b"1"),
            ]
        ],
        {"p": "d", "p/q": "d", "p/r": "d", "p/r/x": "f:1", "l": "l:p/q", "m": "l:l/../r"},
    ),
    "a whiteout through a symlink of its layer": (
        [
            [directory("d"), regular("d/x"), regular("d/y", b"1")],
            [directory("d"), symlink("l", "d"), regular("l/.wh.x")],
        ],
        {"d": "d", "d/y": "f:1", "l": "l:d"},
    ),
    "a symlink may dangle, loop and lead out: it is only text": (
        [[symlink("a", "a"), symlink("b", "/../../nowhere"), symlink("c", "../..")]],
        {"a": "l:a", "b": "l:/../../nowhere", "c": "l:../.."},
    ),
    "hard links to a file and to a symlink": (
        [[regular("f", b"1"), hard_link("g", "./f"), symlink("s", "f"), hard_link("t", "/s")]],
        {"f": "f:1", "g": "f:1", "s": "l:f", "t": "l:f"},
    ),
    "a hard link above the root": (
        [[regular("f", b"1"), hard_link("d/g", "../../f")]],
        {"f": "f:1", "d": "d", "d/g": "f:1"},
    ),
    "a hard link through a symlink of its layer": (
        [[regular("d/f", b"1"), symlink("l", "d"), hard_link("g", "l/f")]],
        {"d": "d", "d/f": "f:1", "l": "l:d", "g": "f:1"},
    ),
    "a lower layer's hard link keeps its content when one name is replaced": (
        [[regular("f", b"1"), hard_link("g", "f")], [regular("f", b"2")]],
        {"f": "f:2", "g": "f:1"},
    ),
    "a fifo": ([[Item(name=b"p", kind=b"6")]], {"p": "p"}),
    "a contiguous file is a file": ([[Item(name=b"x", kind=b"7", data=b"1")]], {"x": "f:1"}),
    "a global header is ignored, as Docker does": (
        [[pax({b"path": b"evil", b"uid": b"7"}, b"g"), regular("x", b"1")]],
        {"x": "f:1"},
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_layers(name: str) -> None:
    layers, expected = AWKWARD[name]
    assert _shape(_flat(*layers)) == expected


_DEEP = "/".join(["d" * 200] * 15)

REFUSED: dict[str, tuple[list[Items], str]] = {
    "a file twice": ([[regular("x"), regular("./x")]], "two entries for this place"),
    "a directory twice": ([[directory("x"), directory("x/")]], "two entries for this place"),
    "a device 0:0 and its name again": (
        [[device("x", 0, 0), regular("x")]],
        "two entries for this place",
    ),
    "one place under two names": (
        [[directory("d"), symlink("l", "d"), regular("d/x"), regular("l/x")]],
        "two entries for this place",
    ),
    "a file over a directory that its layer fills": (
        [[regular("d/x"), regular("d")]],
        "would remove a directory",
    ),
    "a symlink over a directory that its layer fills": (
        [[regular("d/x"), symlink("d", "e")]],
        "would remove a directory",
    ),
    "a device 0:0 over a directory that its layer fills": (
        [[regular("d/x"), device("d", 0, 0)]],
        "would remove a directory",
    ),
    "a file as a directory": ([[regular("f"), regular("f/x")]], "'f' .*not a directory"),
    "a whiteout as a directory": ([[regular(".wh.d"), regular("d/x")]], "'d' .*not a directory"),
    "a whiteout after its name": ([[regular("x"), regular(".wh.x")]], "has before it"),
    "a whiteout after its directory": ([[regular("d/x"), regular(".wh.d")]], "has before it"),
    "a whiteout twice": ([[regular(".wh.x"), directory(".wh.x")]], "has before it"),
    "a whiteout and its directory, over a directory": (
        [[regular("d/x")], [regular(".wh.d"), directory("d")]],
        "follows its own whiteout",
    ),
    "a whiteout of an empty name": ([[regular("d/.wh.")]], "no possible name"),
    "a whiteout of the directory itself": ([[regular("d/.wh..")]], "no possible name"),
    "a whiteout of the parent": ([[regular("d/.wh...")]], "no possible name"),
    "AUFS metadata": ([[directory(".wh..wh.plnk")]], "no possible name"),
    "a directory named as a whiteout": ([[regular(".wh.d/x")]], "no directory can have the name"),
    "a symlink loop": ([[symlink("a", "b"), symlink("b", "a"), regular("a/x")]], "40 symlinks"),
    "a symlink that dangles in its layer": (
        [[directory("usr/lib")], [symlink("lib", "usr/lib"), regular("lib/x")]],
        "'usr' on the way",
    ),
    "a symlink to a file, as a directory": (
        [[regular("f"), symlink("l", "f"), regular("l/x")]],
        "'f' .*not a directory",
    ),
    "a hard link to what only a lower layer has": (
        [[regular("f")], [hard_link("g", "f")]],
        "only a lower layer has",
    ),
    "a hard link to what comes later": ([[hard_link("g", "f"), regular("f")]], "before it"),
    "a hard link to nothing": ([[hard_link("g", "f")]], "before it"),
    "a hard link to itself": ([[regular("g"), hard_link("g", "g")]], "two entries"),
    "a hard link to a directory": ([[directory("d"), hard_link("g", "d")]], "the directory 'd'"),
    "a hard link to the root": ([[hard_link("g", "/")]], "before it"),
    "a hard link without a target": ([[hard_link("g", "")]], "before it"),
    "a hard link to a whiteout": ([[device("w", 0, 0), hard_link("g", "w")]], "before it"),
    "a root that is a file": ([[regular("./")]], "the root is not a directory"),
    "a symlink to nothing": ([[symlink("l", "")]], "empty"),
    "a symlink with a target too long": ([[symlink("l", "x" * 4096)]], "longer than Linux"),
    "a name too long": ([[regular("x" * 256)]], "longer than Linux allows"),
    "a directory with a name too long": ([[regular("x" * 256 + "/y")]], "can have the name"),
    "a path too long": ([[regular(_DEEP + "/" + _DEEP)]], "longer than Linux allows"),
    "a path too long by way of a symlink": (
        [[directory(_DEEP), symlink("l", _DEEP), regular("l/" + _DEEP)]],
        "longer than Linux allows",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_layers(name: str) -> None:
    layers, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as caught:
        _flat(*layers)
    assert caught.value.message.startswith(f"layer {len(layers)}: ")
    assert caught.value.hint


def test_a_directory_entry_sets_attributes_wherever_it_stands() -> None:
    root = _flat([regular("d/x"), directory("d", mode=0o1777, uid=5, gid=6, mtime=9)])
    node = _at(root, "d")
    assert (node.mode, node.uid, node.gid, node.mtime) == (0o1777, 5, 6, 9)
    assert node.origin == "L1"


def test_a_later_layers_directory_entry_sets_attributes_and_keeps_contents() -> None:
    root = _flat([directory("d"), regular("d/x")], [directory("d", mode=0o700, uid=3, mtime=4)])
    node = _at(root, "d")
    assert (node.mode, node.uid, node.mtime, node.origin) == (0o700, 3, 4, "L2")
    assert _shape(root) == {"d": "d", "d/x": "f:"}


def test_a_directory_without_an_entry_is_made_and_named_as_implied() -> None:
    implied: set[Node] = set()
    root = flatten(_layers([regular("a/b/x", mtime=5)]), implied_time=77, implied=implied)
    for path in ("a", "a/b"):
        node = _at(root, path)
        assert (node.mode, node.uid, node.gid, node.mtime, node.origin) == (0o755, 0, 0, 77, "L1")
        assert node in implied
    assert len(implied) == 2


def test_a_lower_directory_used_without_an_entry_keeps_mode_and_owner_but_has_no_time() -> None:
    implied: set[Node] = set()
    layers = _layers([directory("tmp", mode=0o1777, uid=1, mtime=5)], [regular("tmp/x")])
    node = _at(flatten(layers, implied_time=77, implied=implied), "tmp")
    assert (node.mode, node.uid, node.mtime) == (0o1777, 1, 77)
    assert implied == {node}


def test_an_implied_directory_that_gets_an_entry_later_or_goes_is_not_implied_any_more() -> None:
    implied: set[Node] = set()
    layers = _layers(
        [regular("a/x"), regular("b/c/x")], [directory("a", mtime=3), regular(".wh.b")]
    )
    root = flatten(layers, implied_time=77, implied=implied)
    assert implied == set()
    assert _at(root, "a").mtime == 3


def test_hard_links_are_one_node_with_the_attributes_of_the_last_entry() -> None:
    root = _flat([regular("f", b"1", mode=0o600), hard_link("g", "f", mode=0o755, uid=8)])
    node = _at(root, "f")
    assert node is _at(root, "g")
    assert (node.links, node.mode, node.uid) == (2, 0o755, 8)


def test_a_hard_link_to_a_symlink_leaves_its_mode_alone() -> None:
    root = _flat([symlink("s", "x", mtime=4), hard_link("t", "s", mode=0o600, uid=8)])
    node = _at(root, "s")
    assert (node.links, node.mode, node.uid, node.mtime) == (2, 0o777, 8, 4)


def test_links_count_the_names_that_are_left() -> None:
    lower: Items = [regular("f", b"1"), hard_link("g", "f"), hard_link("d/e/h", "f")]
    assert _at(_flat(lower), "f").links == 3
    assert _at(_flat(lower, [regular("f", b"2")]), "g").links == 2
    assert _at(_flat(lower, [regular(".wh.d")]), "g").links == 2
    assert _at(_flat(lower, [regular("d/.wh..wh..opq"), regular(".wh.f")]), "g").links == 1


LINKED: dict[str, tuple[Items, dict[str, int]]] = {
    "the old name and a new one, as overlayfs tells it": (
        [regular("f", b"1"), hard_link("g", "f")],
        {"f": 1, "g": 1},
    ),
    "the new name alone, as a comparison of folders tells it": (
        [regular("g", b"1")],
        {"f": 1, "g": 1},
    ),
    "two new names stay one file": (
        [regular("f", b"1"), hard_link("g", "f"), hard_link("h", "f")],
        {"f": 1, "g": 2, "h": 2},
    ),
    "other content": ([regular("f", b"2"), hard_link("g", "f")], {"f": 2, "g": 2}),
    "another mode": (
        [regular("f", b"1", mode=0o600), hard_link("g", "f", 0o600)],
        {"f": 2, "g": 2},
    ),
}


@pytest.mark.parametrize("case", LINKED)
def test_a_new_name_for_a_file_of_a_lower_layer_is_a_file_of_its_own(case: str) -> None:
    upper, links = LINKED[case]
    root = flatten(_layers([regular("f", b"1")], upper), keep_unchanged=True)
    assert {path.decode(): node.links for path, node in walk(root)} == links
    assert _at(root, "f").origin == ("L1" if links["f"] == 1 else "L2")


def test_docker_sees_one_file_of_two_names() -> None:
    root = _flat([regular("f", b"1")], [regular("f", b"1"), hard_link("g", "f")])
    assert _at(root, "f") is _at(root, "g")


def test_origin_can_depend_on_the_path() -> None:
    layer = Layer(
        region=Region.of_bytes(archive(regular("./a//b"))),
        name="layer",
        origin=lambda path: "package of " + path.decode(),
    )
    root = flatten([layer])
    assert _at(root, "a/b").origin == "package of a/b"
    assert _at(root, "a").origin == "package of a"


def test_the_number_of_entries_is_limited_over_all_layers_and_implied_directories() -> None:
    layers = _layers([regular("a/b/c")], [regular("x")])
    assert len(_shape(flatten(layers, max_entries=4))) == 4
    with pytest.raises(ImageError, match="more than"):
        flatten(layers, max_entries=3)
    with pytest.raises(ImageError, match="more than 2 entries"):
        flatten(layers, max_entries=2)


def test_set_times_reaches_every_entry_and_the_root() -> None:
    root = _flat([regular("a/x", mtime=1), symlink("l", "x"), hard_link("m", "a/x")])
    set_times(root, 123)
    assert {node.mtime for _, node in walk(root)} == {123}
    assert root.mtime == 123


def test_contents_can_be_read_from_a_blob_inside_a_larger_file() -> None:
    data = archive(regular("x", b"content"))
    region = Region(Region.of_bytes(b"?" * 1000 + data + b"?" * 1000), 1000, len(data))
    root = flatten([Layer(region=region, name="layer", origin="")])
    assert _shape(root) == {"x": "f:content"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"", []),
        (b"/", []),
        (b"./a/./b//c/", [b"a", b"b", b"c"]),
        (b"../../a", [b"a"]),
        (b"a/../../b", [b"b"]),
        (b"..a/b..", [b"..a", b"b.."]),
    ],
)
def test_names_are_cleaned(name: bytes, parts: list[bytes]) -> None:
    assert components(name) == parts
