"""What the ramdisks hold, sentence by sentence of nitro-cli's layout."""

from __future__ import annotations

import stat

import pytest

from cagebuild.errors import EifError, ImageError
from cagebuild.image.tree import Kind, Node
from cagebuild.nitro import ramdisk
from cagebuild.nitro.container import create_container
from cagebuild.nitro.cpio import pack
from tests.support import eif_by_spec as spec
from tests.support.nitro import EPOCH, directory, file, symlink, tree

LINUXKIT = 1492533000
HOSTS = b"""\
127.0.0.1       localhost
::1     localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
FIRST = [b"rootfs"]
LAST = [
    b"rootfs",
    b"rootfs/dev",
    b"rootfs/run",
    b"rootfs/sys",
    b"rootfs/var",
    b"rootfs/proc",
    b"rootfs/tmp",
    b"cmd",
    b"env",
]
CONTAINER = [
    b"rootfs/dev/",
    b"rootfs/dev/pts/",
    b"rootfs/dev/shm/",
    b"rootfs/etc/",
    b"rootfs/etc/hosts",
    b"rootfs/etc/mtab",
    b"rootfs/etc/resolv.conf",
    b"rootfs/proc/",
    b"rootfs/sys/",
]


def entries_of(
    root: Node,
    *,
    cmd: tuple[str, ...] = (),
    env: tuple[str, ...] = (),
    workdir: str = "",
    warnings: ramdisk.Warnings | None = None,
) -> list[spec.CpioEntry]:
    create_container(root, workdir=workdir, epoch=EPOCH)
    warnings = warnings if warnings is not None else ramdisk.Warnings()
    entries = ramdisk.image_entries(root, cmd=cmd, env=env, warnings=warnings)
    return spec.cpio(b"".join(pack(entries))).entries


def image_part(root: Node, workdir: str = "") -> dict[bytes, spec.CpioEntry]:
    """The image's own entries by name without ``rootfs/``; each name once."""
    entries = entries_of(root, workdir=workdir)[1:-9]
    found = {entry.name.removeprefix(b"rootfs/"): entry for entry in entries}
    assert len(found) == len(entries)
    return found


def test_ramdisk_0() -> None:
    boot = ramdisk.boot_entries(file(b"INIT", mode=0o600, mtime=1), file(b"NSM"))
    entries = spec.cpio(b"".join(pack(boot))).entries
    assert [(e.name, e.mode, e.mtime, e.uid, e.gid, e.data) for e in entries] == [
        (b"dev", 0o040755, LINUXKIT, 0, 0, b""),
        (b"init", 0o100755, LINUXKIT, 0, 0, b"INIT"),
        (b"nsm.ko", 0o100755, LINUXKIT, 0, 0, b"NSM"),
    ]


def test_ramdisk_0_without_a_module() -> None:
    entries = spec.cpio(b"".join(pack(ramdisk.boot_entries(file(b"I"), None)))).entries
    assert [e.name for e in entries] == [b"dev", b"init"]


def test_an_empty_image() -> None:
    entries = entries_of(tree(), cmd=("/bin/app", "a b", ""), env=("A=1", "B="))
    assert [e.name for e in entries] == FIRST + CONTAINER + LAST
    assert {e.mtime for e in entries} == {LINUXKIT}
    own = [entries[0], *entries[-9:-2]]
    assert {(e.mode, e.uid, e.gid) for e in own} == {(0o040755, 0, 0)}
    assert [(e.mode, e.data) for e in entries[-2:]] == [
        (0o100644, b"/bin/app\na b\n\n"),
        (0o100644, b"A=1\nB=\n"),
    ]


def test_order_is_by_component_not_by_path() -> None:
    root = tree(
        {
            b"foo-bar": file(),
            b"foo": directory({b"x": file(), b"\xff": file(), b"a": directory()}),
            b"zz": file(),
        }
    )
    names = [e.name for e in entries_of(root)]
    wanted = [b"foo/", b"foo/a/", b"foo/x", b"foo/\xff", b"foo-bar"]
    start = names.index(b"rootfs/foo/")
    assert names[start : start + 5] == [b"rootfs/" + name for name in wanted]


def test_the_root_has_no_entry_and_attributes_are_kept() -> None:
    node = Node(Kind.DIRECTORY, mode=0o2770, uid=7, gid=8, mtime=99)
    tool = file(b"x", mode=0o6755, uid=4294967295, gid=2, mtime=3)
    entries = image_part(tree({b"srv": node, b"tool": tool}))
    assert b"" not in entries
    srv, tool_entry = entries[b"srv/"], entries[b"tool"]
    assert (srv.mode, srv.uid, srv.gid, srv.mtime) == (0o042770, 7, 8, 99)
    assert (tool_entry.mode, tool_entry.uid, tool_entry.gid) == (0o106755, 4294967295, 2)


def test_special_files() -> None:
    root = tree(
        {
            b"c": Node(Kind.CHARACTER, mode=0o666, rdev=(1, 3)),
            b"b": Node(Kind.BLOCK, mode=0o660, rdev=(259, 7)),
            b"p": Node(Kind.FIFO, mode=0o600, rdev=(9, 9)),
            b"s": symlink(b"\xfe/raw", mode=0o644),
        }
    )
    entries = image_part(root)
    assert (entries[b"c"].mode, entries[b"c"].rdev) == (0o020666, (1, 3))
    assert (entries[b"b"].mode, entries[b"b"].rdev) == (0o060660, (259, 7))
    assert (entries[b"p"].mode, entries[b"p"].rdev) == (0o010600, (0, 0))
    assert (entries[b"s"].mode, entries[b"s"].data) == (0o120777, b"\xfe/raw")


@pytest.mark.parametrize(
    ("mtime", "written"),
    [(-1, 0), (0, 0), (2**32 - 1, 2**32 - 1), (9223372037, 0), (2**70, 0), (-(2**70), 0)],
)
def test_times(mtime: int, written: int) -> None:
    assert image_part(tree({b"f": file(mtime=mtime)}))[b"f"].mtime == written


@pytest.mark.parametrize("mtime", [2**32, 9223372036])
def test_times_that_linuxkit_would_write_broken(mtime: int) -> None:
    with pytest.raises(ImageError, match=r"rootfs/f: its time"):
        entries_of(tree({b"f": file(mtime=mtime)}))


def test_retimed_directories_keep_their_other_attributes() -> None:
    def odd() -> Node:
        return Node(Kind.DIRECTORY, mode=0o700, uid=5, gid=6, mtime=77)

    dev, etc = odd(), odd()
    assert dev.children is not None
    dev.children.update({b"pts": odd(), b"shm": odd(), b"own": odd()})
    entries = image_part(tree({b"dev": dev, b"etc": etc, b"proc": odd(), b"sys": odd()}))
    for name in (b"dev/", b"dev/pts/", b"dev/shm/", b"etc/", b"proc/", b"sys/"):
        entry = entries[name]
        assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o040700, 5, 6, LINUXKIT)
    assert entries[b"dev/own/"].mtime == 77


def test_replaced_files_whatever_the_image_had() -> None:
    etc = directory(
        {
            b"hosts": file(b"10.0.0.1 db\n", mode=0o600, uid=9),
            b"resolv.conf": symlink(b"/run/x"),
            b"mtab": file(b"none"),
            b"hostname": file(b"me"),
        }
    )
    entries = image_part(tree({b"etc": etc}))
    hosts, resolv, mtab = (entries[b"etc/" + n] for n in (b"hosts", b"resolv.conf", b"mtab"))
    assert len(HOSTS) == 160
    assert (hosts.mode, hosts.uid, hosts.gid, hosts.data) == (0o100755, 0, 0, HOSTS)
    assert (resolv.mode, resolv.data) == (0o120755, b"/run/resolvconf/resolv.conf")
    assert (mtab.mode, mtab.data) == (0o120777, b"/proc/mounts")
    assert {e.mtime for e in (hosts, resolv, mtab)} == {LINUXKIT}
    assert b"etc/hostname" not in entries


def test_replaced_names_as_directories_get_a_second_entry() -> None:
    etc = directory(
        {b"hosts": directory({b"x": file()}), b"mtab": directory(), b"resolv.conf": directory()}
    )
    entries = entries_of(tree({b"etc": etc}))
    names = [e.name for e in entries]
    assert names[5:10] == [
        b"rootfs/etc/hosts/",
        b"rootfs/etc/hosts/x",
        b"rootfs/etc/mtab/",
        b"rootfs/etc/resolv.conf/",
        b"rootfs/proc/",
    ]
    assert entries[5].mtime == 5
    second = entries[-12:-9]
    assert [(e.name, e.mode, e.data, e.mtime) for e in second] == [
        (b"rootfs/etc/hosts", 0o100644, HOSTS, LINUXKIT),
        (b"rootfs/etc/mtab", 0o120755, b"/proc/mounts", LINUXKIT),
        (b"rootfs/etc/resolv.conf", 0o120644, b"/run/resolvconf/resolv.conf", LINUXKIT),
    ]
    assert names[-9:] == LAST


def test_dropped_names_at_the_top_only() -> None:
    root = tree(
        {
            b".dockerenv": file(b"x"),
            b"Dockerfile": file(b"FROM x"),
            b"dev": directory({b"console": Node(Kind.CHARACTER, mode=0o600, rdev=(5, 1))}),
            b"sub": directory({b"Dockerfile": file(b"kept"), b".dockerenv": file(b"kept")}),
        }
    )
    entries = image_part(root)
    assert {b".dockerenv", b"Dockerfile", b"dev/console"}.isdisjoint(entries)
    assert entries[b"sub/Dockerfile"].data == entries[b"sub/.dockerenv"].data == b"kept"


def test_dropped_names_stay_as_directories() -> None:
    root = tree(
        {
            b".dockerenv": directory(),
            b"Dockerfile": directory({b"x": file()}),
            b"dev": directory({b"console": directory()}),
            b"etc": directory({b"hostname": directory()}),
        }
    )
    entries = image_part(root)
    for name in (b".dockerenv/", b"Dockerfile/", b"Dockerfile/x", b"dev/console/"):
        assert name in entries
    assert b"etc/hostname/" in entries


@pytest.mark.parametrize("kind", ["symlink", "file", "device"])
def test_whatever_is_on_a_containers_way_makes_room(kind: str) -> None:
    def obstacle() -> Node:
        if kind == "symlink":
            return symlink(b"/elsewhere")
        return file(b"x") if kind == "file" else Node(Kind.CHARACTER, mode=0o600, rdev=(1, 1))

    root = tree({name: obstacle() for name in (b"etc", b"dev", b"proc", b"sys")})
    entries = entries_of(root)
    assert [e.name for e in entries] == FIRST + CONTAINER + LAST
    made = [e for e in entries if e.name.endswith(b"/")]
    assert {(e.mode, e.uid, e.gid) for e in made} == {(0o040755, 0, 0)}


def test_obstacles_one_level_down() -> None:
    dev = directory({b"pts": symlink(b"/x"), b"shm": file(b"y")})
    entries = image_part(tree({b"dev": dev}))
    assert {b"dev/pts/", b"dev/shm/"} <= set(entries)


def test_hard_links_become_symlinks_to_the_first_name() -> None:
    shared = file(b"data", mode=0o4711, uid=3, gid=4, mtime=42)
    root = tree(
        {
            b"a": directory({b"z": shared, b"deep": directory({b"n": shared})}),
            b"b": shared,
            b"c": directory({b"d": directory({b"e": shared})}),
        }
    )
    entries = image_part(root)
    # Walk order: a/, a/deep/, a/deep/n comes before a/z.
    assert (entries[b"a/deep/n"].mode, entries[b"a/deep/n"].data) == (0o104711, b"data")
    targets = {b"a/z": b"deep/n", b"b": b"a/deep/n", b"c/d/e": b"../../a/deep/n"}
    for name, target in targets.items():
        entry = entries[name]
        assert (entry.mode, entry.data) == (0o124711, target)
        assert (entry.uid, entry.gid, entry.mtime) == (3, 4, 42)


def test_a_hard_link_in_the_same_folder_and_above() -> None:
    shared = file(b"data")
    entries = image_part(tree({b"a": shared, b"b": shared, b"c": directory({b"d": shared})}))
    assert entries[b"b"].data == b"a"
    assert entries[b"c/d"].data == b"../a"


def test_hard_links_to_other_types() -> None:
    link, pipe = symlink(b"/t"), Node(Kind.FIFO, mode=0o640)
    entries = image_part(tree({b"l1": link, b"l2": link, b"p1": pipe, b"p2": pipe}))
    assert (entries[b"l2"].mode, entries[b"l2"].data) == (0o120777, b"l1")
    assert (entries[b"p2"].mode, entries[b"p2"].data) == (0o120640, b"p1")


def test_replaced_names_leave_their_group_of_hard_links() -> None:
    shared = file(b"127.0.0.1 me\n")
    root = tree({b"etc": directory({b"hosts": shared}), b"hosts.bak": shared})
    warnings = ramdisk.Warnings()
    entries = {e.name: e for e in entries_of(root, warnings=warnings)}
    assert (entries[b"rootfs/hosts.bak"].mode, entries[b"rootfs/hosts.bak"].data) == (
        0o100644,
        b"127.0.0.1 me\n",
    )
    assert entries[b"rootfs/etc/hosts"].data == HOSTS
    assert warnings.lines() == ()


def test_hard_links_to_a_dropped_first_name_dangle_and_warn() -> None:
    shared = file(b"FROM scratch")
    root = tree({b"Dockerfile": shared, b"build": directory({b"copy": shared})})
    warnings = ramdisk.Warnings()
    entries = {e.name: e for e in entries_of(root, warnings=warnings)}
    assert entries[b"rootfs/build/copy"].data == b"../Dockerfile"
    assert b"rootfs/Dockerfile" not in entries
    assert [(w.loss, w.path) for w in warnings.first] == [("dangling hard link", b"build/copy")]
    assert "/build/copy" in warnings.lines()[0]


def test_a_dropped_name_that_is_not_the_first_is_just_dropped() -> None:
    shared = file(b"FROM scratch")
    warnings = ramdisk.Warnings()
    entries = entries_of(tree({b"A": shared, b"Dockerfile": shared}), warnings=warnings)
    assert [e.data for e in entries if e.name == b"rootfs/A"] == [b"FROM scratch"]
    assert b"rootfs/Dockerfile" not in {e.name for e in entries}
    assert warnings.lines() == ()


def test_what_is_lost_is_warned_of() -> None:
    capable = Node(Kind.FILE, mode=0o755, xattrs=True)
    odd = Node(Kind.FILE, mode=0o200755)
    plain = Node(Kind.FILE, mode=0o100755)
    warnings = ramdisk.Warnings()
    entries_of(tree({b"ping": capable, b"odd": odd, b"plain": plain}), warnings=warnings)
    assert [(w.loss, w.path) for w in warnings.first] == [
        ("mode bits", b"odd"),
        ("xattrs", b"ping"),
    ]


def test_many_warnings_are_counted() -> None:
    files = {b"%03d" % i: Node(Kind.FILE, mode=0o755, xattrs=True) for i in range(25)}
    warnings = ramdisk.Warnings()
    entries_of(tree(files), warnings=warnings)
    assert len(warnings.lines()) == 11
    assert warnings.lines()[-1].startswith("15 more")


def test_apks_database_is_an_ordinary_file() -> None:
    apk = directory({b"db": directory({b"installed": file(b"P:x", mtime=8)})})
    entries = image_part(tree({b"lib": directory({b"apk": apk})}))
    entry = entries[b"lib/apk/db/installed"]
    assert (entry.data, entry.mtime) == (b"P:x", 8)


@pytest.mark.parametrize("item", ["a\nb", "\n", "nul\0"])
@pytest.mark.parametrize("where", ["cmd", "env"])
def test_items_that_init_would_misread(item: str, where: str) -> None:
    cmd, env = ((item,), ()) if where == "cmd" else ((), (item,))
    with pytest.raises(EifError, match="line break or NUL"):
        entries_of(tree(), cmd=cmd, env=env)


def test_items_are_not_escaped() -> None:
    entries = entries_of(tree(), cmd=("sh", "-c", 'echo "$X" \\n %s ü'), env=())
    assert entries[-2].data == 'sh\n-c\necho "$X" \\n %s ü\n'.encode()
    assert entries[-1].data == b""


def test_a_missing_workdir_is_made_with_the_builds_time() -> None:
    entries = image_part(tree({b"srv": directory(mtime=9)}), "/srv/app/data")
    for name in (b"srv/app/", b"srv/app/data/"):
        entry = entries[name]
        assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o040755, 0, 0, EPOCH)
    assert stat.S_ISDIR(entries[b"srv/"].mode)


def test_a_workdir_that_is_there_stays_as_it_is() -> None:
    srv = Node(Kind.DIRECTORY, mode=0o700, uid=1, mtime=9)
    entry = image_part(tree({b"srv": srv}), "/srv/")[b"srv/"]
    assert (entry.mode, entry.uid, entry.mtime) == (0o040700, 1, 9)


@pytest.mark.parametrize(
    ("workdir", "made"),
    [
        ("relative/x", b"relative/x/"),
        ("/../../up", b"up/"),
        ("/a/./b//c/", b"a/b/c/"),
        ("/link/x", b"real/x/"),
        ("/outside/x", b"etc/x/"),
        ("/out/x", b"x/"),
    ],
)
def test_where_a_workdir_leads(workdir: str, made: bytes) -> None:
    root = tree(
        {
            b"real": directory(),
            b"link": symlink(b"real"),
            b"outside": symlink(b"/../../etc"),
            b"out": symlink(b"missing/../.."),
        }
    )
    entries = image_part(root, workdir)
    assert made in entries
    assert b"missing/" not in entries


@pytest.mark.parametrize("workdir", ["/file", "/file/below", "/loop/x", "/to-file"])
def test_a_workdir_that_cannot_be(workdir: str) -> None:
    root = tree({b"file": file(), b"loop": symlink(b"/loop"), b"to-file": symlink(b"file")})
    with pytest.raises(ImageError, match="WORKDIR"):
        entries_of(root, workdir=workdir)
