"""Packages' files as one tree: where dpkg would put them, never outside, in any order."""

from __future__ import annotations

from contextlib import ExitStack, closing
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from cagebuild.debian.deb import unpack
from cagebuild.debian.merge import Unpacked, merge
from cagebuild.errors import ImageError
from cagebuild.image.tree import FileSource, Kind, walk
from tests.support.debian import file, folder, hard_link, make_deb, member, symlink

if TYPE_CHECKING:
    from pathlib import Path

LINKS = ((b"bin", b"usr/bin", "base"), (b"lib", b"usr/lib", "base"))


def tree(tmp_path: Path, *debs: bytes, links: tuple[tuple[bytes, bytes, str], ...] = LINKS) -> str:
    """What the packages come to, a line for each entry."""
    with ExitStack() as stack:
        packages = []
        for number, content in enumerate(debs):
            path = tmp_path / f"{number}.deb"
            path.write_bytes(content)
            deb = unpack(path, tmp_path / f"{number}.tar")
            packages.append(Unpacked(deb, stack.enter_context(closing(FileSource(deb.data)))))
        root = merge(packages, links)
        lines = []
        for path_in_tree, node in walk(root):
            line = f"{path_in_tree.decode()} {node.mode:o} {node.uid}:{node.gid} {node.mtime}"
            if node.kind is Kind.SYMLINK:
                line += f" -> {node.target.decode()}"
            if node.kind is Kind.FILE:
                line += f" {b''.join(node.read()).decode()} links={node.links}"
            lines.append(line + f" ({node.origin})")
        return "\n".join(lines)


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()]


def same_in_any_order(tmp_path: Path, *debs: bytes) -> str:
    results = {tree(tmp_path, *order) for order in permutations(debs)}
    assert len(results) == 1
    return results.pop()


def test_attributes_are_the_packages_own(tmp_path: Path) -> None:
    text = tree(
        tmp_path,
        make_deb(
            "a",
            folder("./"),
            folder("./etc/", 0o2750, uid=3, gid=4, mtime=5),
            file("./etc/x", b"content", mode=0o4711, uid=1, gid=2, mtime=7),
        ),
        links=(),
    )
    assert text.splitlines() == [
        "etc 2750 3:4 5 (package a 1.0)",
        "etc/x 4711 1:2 7 content links=1 (package a 1.0)",
    ]


def test_paths_of_a_split_usr_land_in_the_merged_one(tmp_path: Path) -> None:
    text = same_in_any_order(
        tmp_path,
        make_deb("a", folder("./bin"), file("./bin/sh", b"a")),
        make_deb("b", folder("./usr"), folder("./usr/bin", 0o700), file("./usr/bin/env", b"b")),
    )
    assert names(text) == ["bin", "lib", "usr", "usr/bin", "usr/bin/env", "usr/bin/sh"]
    assert "usr/bin 700 0:0 1 (package b 1.0)" in text


def test_the_same_file_by_both_names_is_a_conflict(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"b 1\.0: usr/bin/x: a 1\.0 has it too"):
        tree(
            tmp_path, make_deb("a", file("./bin/x", b"a")), make_deb("b", file("./usr/bin/x", b"b"))
        )


def test_a_package_may_have_the_links_of_the_merged_usr(tmp_path: Path) -> None:
    text = tree(tmp_path, make_deb("a", symlink("./bin", "usr/bin"), file("./bin/x", b"a")))
    assert "usr/bin/x" in names(text)


def test_a_package_may_not_turn_the_links_of_the_merged_usr_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is a link to usr/bin"):
        tree(tmp_path, make_deb("a", symlink("./bin", "other")))


def test_a_link_of_one_package_leads_the_files_of_another(tmp_path: Path) -> None:
    text = same_in_any_order(
        tmp_path,
        make_deb("a", symlink("./usr/lib/ssl/certs", "/etc/ssl/certs")),
        make_deb("b", folder("./usr/lib/ssl/certs", 0o700), file("./usr/lib/ssl/certs/x", b"b")),
        make_deb("c", folder("./etc/ssl/certs", 0o711)),
    )
    assert "etc/ssl/certs 711 0:0 1 (package c 1.0)" in text
    assert "etc/ssl/certs/x" in names(text)
    assert "usr/lib/ssl/certs 777 0:0 1 -> /etc/ssl/certs (package a 1.0)" in text


def test_a_deep_link_of_one_package_goes_where_a_shallow_one_of_another_leads(
    tmp_path: Path,
) -> None:
    text = same_in_any_order(
        tmp_path,
        make_deb("a", symlink("./x/y/deep", "t")),
        make_deb("b", symlink("./x", "w")),
        make_deb("c", file("./x/y/file", b"")),
    )
    assert names(text) == ["bin", "lib", "w", "w/y", "w/y/deep", "w/y/file", "x"]


def test_links_stay_inside_the_tree(tmp_path: Path) -> None:
    text = tree(
        tmp_path,
        make_deb(
            "a",
            symlink("./up", "../../../../../../tmp/evil"),
            file("./up/x", b"1"),
            symlink("./root", "/"),
            file("./root/y", b"2"),
        ),
        links=(),
    )
    assert names(text) == ["root", "tmp", "tmp/evil", "tmp/evil/x", "up", "y"]
    assert not (tmp_path / "x").exists()


def test_the_first_package_by_name_says_a_shared_folders_attributes_but_base_files_first(
    tmp_path: Path,
) -> None:
    a = make_deb("a", folder("./tmp", 0o755))
    b = make_deb("b", folder("./tmp", 0o700))
    base = make_deb("base-files", folder("./tmp", 0o1777))
    assert "tmp 755 0:0 1 (package a 1.0)" in same_in_any_order(tmp_path, a, b)
    assert "tmp 1777 0:0 1 (package base-files 1.0)" in same_in_any_order(tmp_path, a, b, base)


def test_a_folder_without_an_entry_is_made(tmp_path: Path) -> None:
    text = tree(tmp_path, make_deb("a", file("./x/y", b"")), links=())
    assert text.splitlines()[0] == "x 755 0:0 0 (package a 1.0)"


def test_the_package_that_replaces_has_the_file_in_any_order(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        text = same_in_any_order(
            tmp_path,
            make_deb(one, file("./x", b"old"), version="1.0"),
            make_deb(other, file("./x", b"new"), fields={"Replaces": f"{one} (<< 2)"}),
        )
        assert "x 644 0:0 1 new links=1" in text


@pytest.mark.parametrize("replaces", [None, "a (<< 1.0)", "other"])
def test_a_file_that_two_packages_have_is_refused(tmp_path: Path, replaces: str | None) -> None:
    fields = {"Replaces": replaces} if replaces else {}
    with pytest.raises(ImageError, match=r"b 1\.0: x: a 1\.0 has it too"):
        tree(
            tmp_path,
            make_deb("a", file("./x", b"same")),
            make_deb("b", file("./x", b"same"), fields=fields),
        )


def test_packages_that_replace_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="has it too"):
        tree(
            tmp_path,
            make_deb("a", file("./x", b"a"), fields={"Replaces": "b"}),
            make_deb("b", file("./x", b"b"), fields={"Replaces": "a"}),
        )


def test_links_of_two_packages_may_be_the_same_but_not_differ(tmp_path: Path) -> None:
    a = make_deb("a", symlink("./x", "y"))
    assert names(tree(tmp_path, a, make_deb("b", symlink("./x", "y")), links=())) == ["x"]
    with pytest.raises(ImageError, match="has it too"):
        tree(tmp_path, a, make_deb("b", symlink("./x", "z")))
    with pytest.raises(ImageError, match="has it too"):
        tree(tmp_path, a, make_deb("b", file("./x", b"")))


def test_hard_links_are_one_file(tmp_path: Path) -> None:
    text = tree(
        tmp_path,
        make_deb("a", file("./bin/perl", b"p"), hard_link("./bin/perl5", "./bin/perl")),
        make_deb("b", file("./other", b"o")),
    )
    assert "usr/bin/perl 644 0:0 1 p links=2" in text
    assert "usr/bin/perl5 644 0:0 1 p links=2" in text
    assert "other 644 0:0 1 o links=1" in text


def test_a_replaced_name_of_a_hard_link_is_no_name_any_more(tmp_path: Path) -> None:
    linked = make_deb("b", file("./x", b"old"), hard_link("./y", "./x"))
    for name in ("a", "c"):
        text = tree(
            tmp_path,
            linked,
            make_deb(name, file("./x", b"new"), fields={"Replaces": "b"}),
            links=(),
        )
        assert [line.partition(" (")[0] for line in text.splitlines()] == [
            "x 644 0:0 1 new links=1",
            "y 644 0:0 1 old links=1",
        ]


def special(name: str, kind: bytes) -> bytes:
    return make_deb("a", (member(name, type=kind, devmajor=1, devminor=3), b""))


@pytest.mark.parametrize(
    ("wrong", "deb"),
    [
        ("an absolute path", make_deb("a", file("/etc/x"))),
        ("a path that goes up", make_deb("a", file("./../x"))),
        ("a path that goes up inside", make_deb("a", file("./a/../../x"))),
        ("a path that is only ..", make_deb("a", file(".."))),
        ("an empty component", make_deb("a", file("./a//x"))),
        ("a component that is a dot", make_deb("a", file("./a/./x"))),
        ("a component longer than Linux allows", make_deb("a", file("./" + "a" * 256))),
        ("a path longer than Linux allows", make_deb("a", file("./" + "a/" * 2100 + "x"))),
        ("a root that is a file", make_deb("a", file("."))),
        ("a character device", special("./x", b"3")),
        ("a block device", special("./x", b"4")),
        ("a pipe", special("./x", b"6")),
        ("a hard link to nothing", make_deb("a", hard_link("./x", "./y"))),
        ("a hard link out of the tree", make_deb("a", hard_link("./x", "../../etc/shadow"))),
        ("a hard link to an absolute path", make_deb("a", hard_link("./x", "/etc/shadow"))),
        ("a hard link before its target", make_deb("a", hard_link("./x", "./y"), file("./y"))),
        ("a hard link to a folder", make_deb("a", folder("./y"), hard_link("./x", "./y"))),
        ("a hard link to a link", make_deb("a", symlink("./y", "z"), hard_link("./x", "./y"))),
        ("a hard link to itself", make_deb("a", hard_link("./x", "./x"))),
        ("a file twice", make_deb("a", file("./x", b"1"), file("./x", b"2"))),
        ("a file by two ways twice", make_deb("a", file("./bin/x"), file("./usr/bin/x"))),
        ("a file where it has a folder", make_deb("a", folder("./x"), file("./x"))),
        ("a file below a file", make_deb("a", file("./x"), file("./x/y"))),
        ("a folder where it has a file", make_deb("a", file("./y/x"), file("./y"))),
        ("a loop of links", make_deb("a", symlink("./x", "y"), symlink("./y", "x"), file("./x/z"))),
        ("a link to itself", make_deb("a", symlink("./x", "x"), file("./x/z"))),
        ("a malformed Replaces", make_deb("a", fields={"Replaces": "b ("})),
    ],
)
def test_a_package_is_refused_that_has(tmp_path: Path, wrong: str, deb: bytes) -> None:
    with pytest.raises(ImageError):
        tree(tmp_path, deb)


def test_a_hard_link_to_a_file_of_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="hard link"):
        tree(tmp_path, make_deb("a", file("./x")), make_deb("b", hard_link("./y", "./x")))


def test_a_folder_of_one_package_where_another_has_a_link_to_a_file_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(ImageError):
        tree(
            tmp_path,
            make_deb("a", symlink("./x", "y"), file("./y", b"")),
            make_deb("b", folder("./x")),
        )
