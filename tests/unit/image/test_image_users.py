"""USER to numbers by the image's own files, and paths through its symlinks."""

from __future__ import annotations

import pytest

from cagebuild.errors import ImageError
from cagebuild.image.layers import Layer, flatten
from cagebuild.image.tree import Kind, MemorySource, Node, Region
from cagebuild.image.users import MAX_FILE, User, lookup, resolve
from tests.support.tars import Item, archive, directory, regular, symlink

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/usr/sbin/nologin
\xff:x:1500:1500::/:
broken:x:abc:1::/:
short:x
nohome:x:7:8:::
big:x:4294967296:1::/:
1000:x:42:42::/odd:/bin/sh
app:x:2000:2000:second:/other:
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
app:x:1001:
users:x:100:app,other
data:x:50:app
bad:x:y:app
nomembers:x:60
"""


def _tree(*items: Item | bytes) -> Node:
    return flatten([Layer(region=Region.of_bytes(archive(*items)), name="layer", origin="")])


FULL = _tree(regular("etc/passwd", PASSWD), regular("etc/group", GROUP))
EMPTY = _tree()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(uid=0, gid=0, groups=(0, 10), home="/root")),
        ("root", User(uid=0, gid=0, groups=(0, 10), home="/root")),
        ("0", User(uid=0, gid=0, groups=(0, 10), home="/root")),
        ("app", User(uid=1000, gid=1001, groups=(10, 50, 100, 1001), home="/home/app")),
        ("1000", User(uid=1000, gid=1001, groups=(10, 50, 100, 1001), home="/home/app")),
        ("app:", User(uid=1000, gid=1001, groups=(10, 50, 100, 1001), home="/home/app")),
        ("app:wheel", User(uid=1000, gid=10, groups=(10,), home="/home/app")),
        ("app:0", User(uid=1000, gid=0, groups=(0,), home="/home/app")),
        (":wheel", User(uid=0, gid=10, groups=(10,), home="/root")),
        ("app:nomembers", User(uid=1000, gid=60, groups=(60,), home="/home/app")),
        ("5:6", User(uid=5, gid=6, groups=(6,), home="/")),
        ("5", User(uid=5, gid=0, groups=(0,), home="/")),
        ("nohome", User(uid=7, gid=8, groups=(8,), home="/")),
        ("\udcff", User(uid=1500, gid=1500, groups=(1500,), home="/")),
        ("2147483647", User(uid=2147483647, gid=0, groups=(0,), home="/")),
    ],
)
def test_users(user: str, expected: User) -> None:
    assert resolve(FULL, user) == expected


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(uid=0, gid=0, groups=(0,), home="/")),
        ("0:0", User(uid=0, gid=0, groups=(0,), home="/")),
        ("65532:65532", User(uid=65532, gid=65532, groups=(65532,), home="/")),
    ],
)
def test_images_without_users(user: str, expected: User) -> None:
    assert resolve(EMPTY, user) == expected


@pytest.mark.parametrize("user", ["app", "root", "root:root", "0:root", "broken", " 0", "0x0"])
def test_names_that_are_not_there(user: str) -> None:
    with pytest.raises(ImageError, match="is not in the image's /etc/"):
        resolve(EMPTY, user)


@pytest.mark.parametrize("user", ["broken", "short", "big", "APP", "app:bad", "app:nothing"])
def test_malformed_lines_name_nobody(user: str) -> None:
    with pytest.raises(ImageError, match="is not in the image's /etc/"):
        resolve(FULL, user)


@pytest.mark.parametrize("user", ["2147483648", "-1", "0:2147483648", "99999999999999999999"])
def test_numbers_out_of_range(user: str) -> None:
    with pytest.raises(ImageError, match="is out of range"):
        resolve(FULL, user)


def test_passwd_behind_symlinks_that_never_leave_the_image() -> None:
    root = _tree(
        directory("etc"),
        symlink("etc/passwd", "../../../../data/passwd"),
        regular("data/passwd", PASSWD),
        symlink("etc/group", "/data/loop"),
        symlink("data/loop", "loop"),
    )
    assert resolve(root, "app").uid == 1000


def test_passwd_that_is_no_file() -> None:
    root = _tree(directory("etc/passwd"), Item(name=b"etc/group", kind=b"6"))
    assert resolve(root, "7:7").uid == 7


def test_a_huge_passwd_is_refused_unread() -> None:
    root = _tree(directory("etc"))
    etc = lookup(root, b"etc")
    assert etc is not None
    assert etc.children is not None
    etc.children[b"passwd"] = Node(
        Kind.FILE, mode=0o644, size=MAX_FILE + 1, source=MemorySource(b"")
    )
    with pytest.raises(ImageError, match="more than"):
        resolve(root, "app")


LOOKUP = _tree(
    regular("usr/lib/x", b"1"),
    symlink("lib", "usr/lib"),
    symlink("abs", "/usr/lib"),
    symlink("up", "../../usr"),
    symlink("usr/back", "../lib/x"),
    symlink("loop", "loop"),
    symlink("dangling", "nowhere/x"),
    symlink("file", "usr/lib/x"),
)


@pytest.mark.parametrize(
    "path",
    [
        b"usr/lib/x",
        b"/usr//lib/./x",
        b"lib/x",
        b"abs/x",
        b"up/lib/x",
        b"usr/back",
        b"file",
        b"../../lib/x",
        b"lib/../lib/x",
        b"usr/../abs/x",
    ],
)
def test_lookup_finds(path: bytes) -> None:
    node = lookup(LOOKUP, path)
    assert node is not None
    assert b"".join(node.read()) == b"1"


@pytest.mark.parametrize(
    "path",
    [b"x", b"loop", b"loop/x", b"dangling", b"file/x", b"usr/lib/x/", b"lib/x/..", b"file/."],
)
def test_lookup_does_not_find(path: bytes) -> None:
    assert lookup(LOOKUP, path) is None


def test_lookup_of_the_root() -> None:
    for path in (b"", b"/", b"..", b"lib/../.."):
        assert lookup(LOOKUP, path) is LOOKUP
