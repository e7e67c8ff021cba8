"""Dockerfiles without RUN and without images from outside, each for a rule or two of BuildKit's.

What BuildKit makes of each is in ``tests/golden/dockerfiles.json``. The others have to agree, as
far as they understand the file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import zstandard

from cagebuild.image.tree import Kind, Node, Region, new_root
from tests.support.tars import Item as TarItem
from tests.support.tars import archive, device, directory, hard_link, regular, symlink

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something in a build context."""

    data: bytes = b""
    mode: int = 0o644
    target: str = ""
    """Of a symlink."""
    folder: bool = False
    """An empty directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A Dockerfile, its context, and how it is built."""

    name: str
    dockerfile: bytes
    context: Mapping[str, Entry] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    buildah: Literal["1.28", "1.43", "none"] = "1.28"
    """From which of its versions on buildah makes the same of it."""
    buildkit: Literal["0.13", "0.25", "0.34"] = "0.13"
    """From which version on BuildKit does, by the frontend that it brings."""

    def write_context(self, folder: Path) -> None:
        """Make the context on disk, whatever the umask is."""
        for name, entry in self.context.items():
            path = folder / name
            for parent in reversed(path.parents):
                if parent.is_relative_to(folder) and not parent.is_dir():
                    parent.mkdir()
                    parent.chmod(0o755)
            if entry.target:
                path.symlink_to(entry.target)
            elif entry.folder:
                path.mkdir(exist_ok=True)
                path.chmod(entry.mode)
            else:
                path.write_bytes(entry.data)
                path.chmod(entry.mode)

    def context_tree(self) -> Node:
        """The same as a tree."""
        return tree_of(self.context)


def tree_of(context: Mapping[str, Entry]) -> Node:
    """A context as a tree."""
    root = new_root()
    for name, entry in context.items():
        *parents, last = name.encode().split(b"/")
        here = root
        for part in parents:
            here = _children(here).setdefault(part, Node(Kind.DIRECTORY, mode=0o755))
        _children(here)[last] = _node(entry)
    return root


def _children(node: Node) -> dict[bytes, Node]:
    assert node.children is not None
    return node.children


def _node(entry: Entry) -> Node:
    if entry.target:
        return Node(Kind.SYMLINK, mode=0o777, target=entry.target.encode())
    if entry.folder:
        return Node(Kind.DIRECTORY, mode=entry.mode)
    return file_node(entry.data, mode=entry.mode)


def file_node(data: bytes, *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Node:
    """A regular file in memory."""
    region = Region.of_bytes(data)
    return Node(Kind.FILE, mode=mode, uid=uid, gid=gid, size=region.size, source=region.source)


def text(content: str, mode: int = 0o644) -> Entry:
    """A file."""
    return Entry(data=content.encode(), mode=mode)


def link(target: str) -> Entry:
    """A symlink."""
    return Entry(target=target)


def folder(mode: int = 0o755) -> Entry:
    """An empty directory."""
    return Entry(folder=True, mode=mode)


PASSWD: Final = text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/false\n")
GROUP: Final = text("root:x:0:\napp:x:1001:\nstaff:x:50:app\n")
_USERS: Final = {"etc/passwd": PASSWD, "etc/group": GROUP}
_TREE: Final = {
    "src/a.txt": text("a"),
    "src/b.md": text("b"),
    "src/run.sh": text("#!/bin/sh\n", 0o755),
    "src/sub/c.txt": text("c"),
    "src/sub/deep/d.txt": text("d"),
    "src/link": link("a.txt"),
    "src/away": link("/nowhere"),
    "src/empty": folder(),
}
_GZIPPED_TEXT: Final = bytes.fromhex("1f8b0800000000000203e302009306d73201000000")  # one line break
_TAR: Final = archive(
    directory("pkg", 0o750, 7, 8),
    regular("pkg/file", b"packed", 0o640),
    TarItem(name=b"pkg/owned", data=b"owned", mode=0o4755, uid=1000, gid=1001),
    symlink("pkg/link", "file"),
    hard_link("pkg/hard", "pkg/file", 0o640),
    regular("implied/deep/file", b"implied"),
)


def _plain(name: str, dockerfile: str, context: Mapping[str, Entry] | None = None) -> Case:
    return Case(name=name, dockerfile=dockerfile.encode(), context=context or _TREE)


def _buildkit(
    name: str,
    dockerfile: str,
    context: Mapping[str, Entry] | None = None,
    since: Literal["0.13", "0.25", "0.34"] = "0.13",
) -> Case:
    return replace(_plain(name, dockerfile, context), buildah="none", buildkit=since)


def _newer(name: str, dockerfile: str, context: Mapping[str, Entry] | None = None) -> Case:
    return replace(_plain(name, dockerfile, context), buildah="1.43")


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


CASES: Final = (
    _plain("copy-one-file-into-a-folder", "FROM scratch\nCOPY src/a.txt /x/y/\n"),
    _plain("copy-one-file-to-a-name", "FROM scratch\nCOPY src/a.txt /x/y\n"),
    _plain(
        "copy-a-file-to-an-existing-folder", "FROM scratch\nCOPY src /x\nCOPY src/b.md /x/sub\n"
    ),
    _plain("copy-the-contents-of-a-folder", "FROM scratch\nCOPY src /x/y\n"),
    _plain("copy-everything-to-the-root", "FROM scratch\nCOPY . /\n"),
    _plain("copy-a-source-that-leads-out", "FROM scratch\nCOPY ../../src/./sub/../a.txt /x/\n"),
    _plain("copy-a-source-with-a-trailing-slash", "FROM scratch\nCOPY src/sub/ /x\n"),
    _plain("copy-several-sources", "FROM scratch\nCOPY src/a.txt src/sub src/run.sh /x/\n"),
    _plain(
        "copy-several-into-what-is-there", "FROM scratch\nCOPY src /x\nCOPY src/a.txt src/b.md /x\n"
    ),
    _plain("copy-by-json", 'FROM scratch\nCOPY ["src/a.txt", "src/b.md", "/with space/"]\n'),
    _plain(
        "copy-relative-to-the-directory",
        "FROM scratch\nWORKDIR /w\nWORKDIR v/../u\nCOPY src/a.txt .\nCOPY src/b.md ./n/\n"
        "COPY src/run.sh ../up\nCOPY src/sub .\n",
    ),
    _plain(
        "copy-patterns",
        "FROM scratch\nCOPY src/*.txt /stars/\nCOPY src/?.md /marks/\nCOPY src/[a-b].* /class/\n"
        "COPY src/[^a]* /not/\nCOPY s*/sub/*.txt /deep/\nCOPY */*/deep /folders/\n",
    ),
    _plain("copy-a-pattern-that-matches-nothing", "FROM scratch\nCOPY src/a.txt src/*.zip /x/\n"),
    _plain("copy-a-pattern-of-folders", "FROM scratch\nCOPY src/s* /x\n"),
    _plain(
        "symlinks-of-the-source",
        "FROM scratch\nCOPY src/link /named\nCOPY src/link /in/\nCOPY to-sub /sub\n"
        "COPY to-sub/c.txt /through\nCOPY absolute /absolute\nCOPY l* /matched/\n",
        {
            **_TREE,
            "to-sub": link("src/sub"),
            "absolute": link("/src/a.txt"),
            "l1": link("src/a.txt"),
            "l2": link("src/sub"),
        },
    ),
    _plain(
        "symlinks-in-the-destination",
        "FROM scratch\nCOPY image /\nCOPY src/a.txt /lib/x\nCOPY src/b.md /out/\n"
        "COPY src/sub /lib\nCOPY src/b.md /missing/y/\n",
        {
            **_TREE,
            "image/usr/lib/libc": text("c"),
            "image/lib": link("usr/lib"),
            "image/out": link("../../../usr"),
            "image/missing": link("/not/there"),
        },
    ),
    _buildkit(
        "symlinks-that-are-the-destination",
        "FROM scratch\nCOPY image /\nCOPY src/run.sh /file\nCOPY src/a.txt /dangling\n",
        {
            **_TREE,
            "image/target": text("old"),
            "image/file": link("target"),
            "image/dangling": link("new/place"),
        },
    ),
    _plain(
        "symlinks-that-are-replaced",
        "FROM scratch\nCOPY image /\nCOPY src/a.txt /d/\nCOPY src /d\n",
        {**_TREE, "image/d/a.txt": link("elsewhere"), "image/d/b.md": link("a.txt")},
    ),
    _plain(
        "attributes-of-folders-that-are-there",
        "FROM scratch AS one\nCOPY --chmod=700 --chown=5:6 src /x\nFROM scratch\n"
        "COPY --from=one /x /y\nCOPY src /y\nCOPY src/sub /y\n",
    ),
    _plain(
        "files-of-a-stage-keep-owners-and-modes",
        "FROM scratch AS one\nCOPY --chown=5:6 --chmod=4710 src /x\nFROM scratch\n"
        "COPY --from=one /x /new/place\nCOPY --from=0 /x/a.txt /x/link /z/\n",
    ),
    _plain(
        "a-stage-as-a-whole",
        "FROM scratch AS one\nCOPY --chown=5:6 src /x\nFROM scratch\nCOPY --from=one / /all/\n",
    ),
    Case(
        name="names-of-stages-in-capitals",
        dockerfile=(
            b"FROM scratch AS One\nCOPY src/a.txt /a\nFROM scratch AS two\n"
            b"COPY --from=ONE /a /b\nFROM two\nRUN false\n"
        ),
        context=_TREE,
        target="TWO",
        buildah="none",
    ),
    _plain(
        "chmod-octal",
        "FROM scratch\nARG M=640\nWORKDIR /x\nCOPY --chmod=$M src/a.txt .\n"
        "COPY --chmod=6751 src .\nCOPY --chmod=0 src/b.md /none\n",
    ),
    _buildkit(
        "chmod-of-folders-on-the-way",
        "FROM scratch\nCOPY --chmod=640 src/a.txt /made/by/chmod\nCOPY --chmod=6751 src /x\n",
        since="0.25",
    ),
    _buildkit(
        "chmod-in-words",
        "FROM scratch\nCOPY --chmod=u=rwX,go=rX src /a\nCOPY --chmod=+x src/a.txt /b\n"
        "COPY --chmod=g=u,o-r src/run.sh /c\nCOPY --chmod=a+s,u-x,o=t src/run.sh /d\n"
        "COPY --chmod=u+rwxs,g-w,+t src /e\nCOPY --chmod=g=ux src/a.txt /f\n",
        since="0.25",
    ),
    _plain(
        "chown-by-number",
        "FROM scratch\nCOPY --chown=1000 src/a.txt /a/\nCOPY --chown=1000:50 src /b/\n",
    ),
    _plain(
        "chown-by-name",
        "FROM scratch\nCOPY etc /etc\nARG WHO=app\nCOPY --chown=$WHO src/a.txt /a\n"
        "COPY --chown=app:staff src /b/\nCOPY --chown=1000:staff src/a.txt /c\n"
        "COPY --chown=root:7 src/a.txt /d\n",
        {**_TREE, **_USERS},
    ),
    _buildkit(
        "chown-by-names-of-odd-lines",
        "FROM scratch\nCOPY etc /etc\nCOPY --chown=odd:odder src/a.txt /a\n",
        {
            **_TREE,
            "etc/passwd": text("\n  \nodd:x:77\n"),
            "etc/group": text("# no comment\nodder:x:78"),
        },
    ),
    _buildkit(
        "chown-to-root-and-to-no-user",
        "FROM scratch\nCOPY --chown=root:7 src/a.txt /c\nCOPY --chown=:8 src/a.txt /d\n",
    ),
    _plain(
        "chown-by-the-names-of-the-target",
        "FROM scratch AS other\nCOPY src /src\nFROM scratch\nCOPY etc /etc\n"
        "COPY --from=other --chown=app:app /src /x\n",
        {**_TREE, **_USERS},
    ),
    _newer(
        "link-where-nothing-is",
        "FROM scratch\nCOPY --link src /x/y\nCOPY --link src/a.txt /x/\n",
    ),
    replace(
        _newer(
            "parents-of-plain-paths",
            "FROM scratch\nCOPY --parents src/sub/deep/d.txt src/a.txt /p/\n"
            "COPY --parents src/./sub/deep /pivot/\n",
        ),
        buildkit="0.34",
    ),
    _buildkit(
        "exclude-from-a-folder",
        "FROM scratch\nCOPY --exclude=*.md --exclude=sub/deep src /a\n"
        "COPY --exclude=**/*.txt src /b\n",
        since="0.25",
    ),
    _newer(
        "heredocs-of-plain-text",
        "FROM scratch\nARG X=y\nWORKDIR /w\nCOPY <<EOF /a\n$X ${X}\n\nEOF\n"
        "COPY --chmod=755 <<'EOF' <<-two src/a.txt /c/\n$X\nEOF\n\ttabs\ntwo\n",
    ),
    _buildkit(
        "parents",
        "FROM scratch\nCOPY --parents src/sub/deep/d.txt src/a.txt /p/\n"
        "COPY --parents src/./sub/deep /pivot/\nCOPY --parents src/**/*.txt /deep/\n"
        "COPY --parents src/*/c.txt /star\nCOPY --parents --chmod=711 src/sub/c.txt /mode/\n",
        since="0.34",
    ),
    _buildkit(
        "exclude",
        "FROM scratch\nCOPY --exclude=*.md --exclude=sub/deep src /a\n"
        "COPY --exclude=**/*.txt src /b\nCOPY --exclude=sub --exclude=!sub/deep/*.txt src /c\n"
        "COPY --exclude=*.txt src/*.txt /d/\nCOPY --exclude=a.txt src/a.txt /e\n"
        "COPY --exclude=** src /f\nADD --exclude=s* src /g\n",
        since="0.25",
    ),
    _buildkit(
        "heredocs",
        "FROM scratch\nARG X=y\nWORKDIR /w\nCOPY <<EOF /a\n$X \"${X}\" '$X' \\$X \\\\ \\n\nEOF\n"
        "COPY <<'EOF' /b\n$X \\$X\nEOF\nCOPY <<-one <<two src/a.txt /c/\n\t\ttabs $X\n\tone\n"
        "two ${X:-z} ${U:-z}\ntwo\nADD --chmod=755 --chown=3:4 <<EOF run\nEOF\n"
        "COPY <<EOF .\nname\nEOF\n",
    ),
    Case(
        name="add-archives",
        dockerfile=(
            b"FROM scratch\nADD plain.tar /plain\nADD a.tar.gz /gz/\nADD b.tar.bz2 /bz2\n"
            b"ADD c.tar.xz /xz\nADD d.tar.zst /zst/made\nADD no.gz empty.tar /kept/\n"
            b"COPY plain.tar /copied\n"
            b"COPY src /over\nADD plain.tar /over\n"
        ),
        context={
            "plain.tar": Entry(data=_TAR),
            "a.tar.gz": Entry(data=gzip.compress(_TAR, mtime=0)),
            "b.tar.bz2": Entry(data=bz2.compress(_TAR)),
            "c.tar.xz": Entry(data=lzma.compress(_TAR)),
            "d.tar.zst": Entry(data=_zstd(_TAR)),
            "no.gz": Entry(data=_GZIPPED_TEXT),
            "empty.tar": Entry(data=archive()),
            "src/pkg/file": text("gives way"),
            "src/pkg/stays": text("stays"),
            "src/implied": link("pkg"),
        },
    ),
    Case(
        name="add-an-archive-for-somebody",
        dockerfile=b"FROM scratch\nADD --chown=3:4 --chmod=700 plain.tar /x/y\n",
        context={"plain.tar": Entry(data=_TAR)},
        buildah="none",
        buildkit="0.25",
    ),
    Case(
        name="add-without-unpacking",
        dockerfile=b"FROM scratch\nADD --unpack=false plain.tar /whole\n",
        context={"plain.tar": Entry(data=_TAR)},
        buildah="none",
        buildkit="0.25",
    ),
    Case(
        name="add-an-archive-through-symlinks",
        dockerfile=b"FROM scratch\nADD t.tar /d\n",
        context={
            "t.tar": Entry(
                data=archive(
                    directory("real"),
                    symlink("abs", "/real"),
                    regular("abs/file", b"1"),
                    symlink("rel", "real/../real"),
                    regular("rel/second", b"2"),
                    regular("twice", b"first"),
                    regular("twice", b"last", 0o600),
                    symlink("was", "real"),
                    directory("was", 0o711),
                    device("null", 1, 3),
                    regular("/rooted", b"r"),
                    regular("real/../dots", b"d"),
                    hard_link("same", "rooted", 0o604, 9),
                )
            )
        },
    ),
    _plain("add-plain-files", "FROM scratch\nADD src /x\nADD src/a.txt src/b.md /y/\n"),
    _plain(
        "workdir",
        "FROM scratch\nARG D=v\nWORKDIR /a/b\nWORKDIR c\nWORKDIR $D/e\nWORKDIR /a\n",
    ),
    _plain(
        "workdir-of-a-user",
        "FROM scratch\nCOPY etc /etc\nWORKDIR /a\nUSER app:staff\nWORKDIR b/c\nUSER 5\n"
        "WORKDIR /number\nUSER root\nWORKDIR /root\n",
        {**_TREE, **_USERS},
    ),
    _plain(
        "workdir-through-a-symlink",
        "FROM scratch\nCOPY image /\nWORKDIR /link/new\nCOPY src/a.txt .\n",
        {**_TREE, "image/real/x": text("x"), "image/link": link("/real")},
    ),
    _plain("workdir-that-is-not-clean", "FROM scratch\nWORKDIR /a//b/../c/\nWORKDIR d/./\n"),
    _plain("nothing", "FROM scratch\n"),
    _plain(
        "env-and-labels",
        "FROM scratch\nENV A=1 B='two words' C=th\\ ree\nENV OLD form  with  spaces\n"
        'ENV A=4 D=$A E=${D:-none}\nENV PATH=/x:$PATH\nLABEL b="x $A" a=1\nLABEL b=2 $A=key\n'
        "ENV Q='$A' R=\"$A\" S=\\$A\n",
    ),
    Case(
        name="args",
        dockerfile=(
            b"ARG TAG=one\nARG BOTH=global\nARG DERIVED=$TAG-two\nFROM scratch\nARG TAG\n"
            b"ARG BOTH=own\nARG DERIVED\nARG UNSET\nARG GIVEN=default\nARG NEVER\n"
            b"LABEL tag=$TAG both=$BOTH derived=$DERIVED\n"
            b"LABEL unset=$UNSET given=$GIVEN never=$NEVER\nLABEL before=$LATER at=$TARGETARCH\n"
            b"ARG LATER=x TARGETARCH\nLABEL after=$LATER arch=$TARGETARCH\n"
        ),
        args={"GIVEN": "given", "OTHER": "unused"},
    ),
    _buildkit("arg-after-env", "FROM scratch\nENV V=1\nARG V=2\nENV W=$V\n"),
    Case(
        name="args-and-env-of-a-stage-below",
        dockerfile=(
            b"FROM scratch AS base\nARG X=arg\nENV E=env\nARG E=hidden\nENV F=$E\n"
            b"FROM base\nENV G=$X H=$E\n"
        ),
        buildah="none",
    ),
    _plain(
        "commands-in-words",
        'FROM scratch\nENTRYPOINT ["/bin/app", "a, b", "$HOME"]\nCMD ["--x", "\\u00e9"]\n',
    ),
    _buildkit(
        "commands-for-a-shell",
        'FROM scratch\nENTRYPOINT echo $HOME "x  y"\nSHELL ["/bin/bash", "-ec"]\n'
        "CMD exec /bin/app \\\n  --flag\n",
    ),
    _buildkit(
        "entrypoint-for-a-shell-of-its-own",
        'FROM scratch\nSHELL ["/bin/bash", "-ec"]\nENTRYPOINT /bin/app\n',
    ),
    _plain("commands-that-are-empty", 'FROM scratch\nCMD ["x"]\nENTRYPOINT []\nCMD []\n'),
    _plain(
        "entrypoint-takes-an-inherited-cmd-away",
        'FROM scratch AS a\nCMD ["inherited"]\nUSER u\nEXPOSE 1\nFROM a\nENTRYPOINT ["/x"]\n',
    ),
    _plain(
        "entrypoint-keeps-its-own-cmd",
        'FROM scratch AS a\nCMD ["inherited"]\nFROM a\nCMD ["own"]\nENTRYPOINT ["/x"]\n',
    ),
    _plain(
        "cmd-of-an-earlier-stage-does-not-leak",
        'FROM scratch AS a\nCMD ["a"]\nUSER 7\nENV A=a\nWORKDIR /a\n'
        "FROM scratch\nCOPY src/a.txt b\n",
    ),
    Case(
        name="ports",
        dockerfile=b"FROM scratch\nARG P=9000 Q='70 71'\nEXPOSE 80 53/udp $P $Q\nEXPOSE 80/tcp\n",
    ),
    _buildkit(
        "ranges-of-ports",
        "FROM scratch\nEXPOSE 8000-8002/udp 443/TCP\nEXPOSE 1:2 3.4.5.6:7:8/sctp\n",
    ),
    _plain(
        "health",
        "FROM scratch AS none\nHEALTHCHECK NONE\nFROM scratch AS words\n"
        'HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD ["/check", "$X"]\n'
        "FROM words\nHEALTHCHECK --start-period=1.5s CMD curl 'http://x/?a=1&b=2' || exit 1\n",
    ),
    Case(
        name="health-in-words",
        dockerfile=(
            b"FROM scratch\n"
            b'HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD ["/check", "$X"]\n'
        ),
    ),
    Case(name="health-none", dockerfile=b"FROM scratch\nHEALTHCHECK NONE\n"),
    _plain(
        "user-volume-signal",
        "FROM scratch\nARG U=app V=/v\nUSER $U:${G:-staff}\nVOLUME $V /w\n"
        'VOLUME ["/json", "$V/x"]\nSTOPSIGNAL SIGRTMIN+3\nMAINTAINER nobody\n',
    ),
    Case(
        name="target-in-the-middle",
        dockerfile=(
            b"FROM scratch AS first\nCOPY src/a.txt /a\nFROM first AS second\nCOPY src/b.md /b\n"
            b"FROM second AS third\nRUN false\n"
        ),
        context=_TREE,
        target="second",
    ),
    Case(
        name="stages-that-are-not-needed",
        dockerfile=(
            b"FROM scratch AS unused\nRUN false\nCOPY not-there /x\nFROM scratch\n"
            b"COPY src/a.txt /a\n"
        ),
        context=_TREE,
    ),
    _plain(
        "onbuild-of-a-stage",
        "FROM scratch AS base\nONBUILD COPY src/a.txt /triggered\nONBUILD ENV T=1\n"
        "ONBUILD ARG Y=2\nFROM base AS next\nENV Z=$Y\nFROM next\nCOPY src/b.md /b\n",
    ),
    _plain(
        "hard-links-through-stages",
        "FROM scratch AS one\nADD links.tar /\nFROM scratch\nCOPY --from=one /d /e\n"
        "COPY --from=one /d/x /alone\nCOPY src/a.txt /e/y\n",
        {
            **_TREE,
            "links.tar": Entry(
                data=archive(
                    directory("d"),
                    regular("d/x", b"linked"),
                    hard_link("d/y", "d/x"),
                    hard_link("d/z", "d/x"),
                )
            ),
        },
    ),
    Case(
        name="another-escape-character",
        dockerfile=b"# escape=`\nFROM scratch\nENV A=a `\n  B=b\nCOPY src/a.txt `\n  /x/\n",
        context=_TREE,
    ),
    _buildkit("escapes-by-another-character", "# escape=`\nFROM scratch\nENV B=`$A C=\\x\n"),
    _newer(
        "names-with-brackets",
        "FROM scratch\nCOPY arr[[]0].txt /\n",
        {"arr[0].txt": text("5"), "arr0.txt": text("6")},
    ),
    Case(
        name="awkward-names",
        dockerfile=(
            b'FROM scratch\nCOPY ["a b", "/x y/"]\nCOPY "q\'uote" caf\xc3\xa9 /\nCOPY p%s /\n'
        ),
        context={
            "a b": text("1"),
            "q'uote": text("2"),
            "café": text("3"),
            "p%s": text("4"),
        },
    ),
)
