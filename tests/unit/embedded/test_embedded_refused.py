"""What cannot be built, with the line of the Dockerfile that says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cagebuild.errors import DockerfileError, ImageError, UnsupportedError
from cagebuild.image.tree import Node
from tests.support import tars
from tests.support.dockerfile_table import PASSWD, Case, Entry, folder, link, text
from tests.support.embedded import built

CONTEXT = {
    "a": text("a"),
    "b": text("b"),
    "d/a": folder(),
    "hidden/.wh.a": text(""),
    "etc/passwd": PASSWD,
    "image/tmp": folder(0o777),
    "t.tar": Entry(data=tars.archive(tars.regular("tmp/x"))),
    "image/lib": link("usr"),
    "image/usr": folder(),
    "image/loop": link("loop"),
    "image/file": text("file"),
}


def context() -> Node:
    return Case(name="", dockerfile=b"", context=CONTEXT).context_tree()


@pytest.mark.parametrize(
    ("dockerfile", "line", "message"),
    [
        ("FROM scratch\nCOPY missing /x\n", 2, "/missing is not there"),
        ("FROM scratch\nCOPY no/*.txt /x\n", 2, "/no is not there"),
        ("FROM scratch\n\nCOPY a/b /x\n", 3, "/a is not a directory"),
        ("FROM scratch\nCOPY a b /x\n", 2, "several sources"),
        ("FROM scratch\nCOPY [ab] /x\n", 2, "several sources"),
        ("FROM scratch\nCOPY a <<EOF /x\nEOF\n", 2, "several sources"),
        ("FROM scratch\nCOPY a[ /x\n", 2, "'a[' is not a pattern"),
        ("FROM scratch\nCOPY a /x\nCOPY d /x\n", 3, "/x is not a directory"),
        ("FROM scratch\nCOPY a /x\nCOPY a /x/y\n", 3, "/x is not a directory"),
        ("FROM scratch\nCOPY d /x\nCOPY a /x/\n", 3, "a file cannot replace the directory a"),
        ("FROM scratch\nCOPY a /x/a\nCOPY d /x\n", 3, "a directory cannot replace a"),
        ("FROM scratch\nCOPY image /\nCOPY a /loop/x\n", 3, "/loop is a loop of symlinks"),
        (f"FROM scratch\nCOPY a /{'n' * 256}\n", 2, "no file can have the name nnn"),
        ("FROM scratch\nCOPY hidden /x\n", 2, "the name .wh.a removes another from an image"),
        ("FROM scratch\nCOPY --parents . /x\n", 2, "--parents needs a path"),
        ("FROM scratch\nCOPY --parents d/./no /x\n", 2, "/d/no is not there"),
        ("FROM scratch\nCOPY --exclude=[ d /x\n", 2, "'[' is not a pattern"),
        ("FROM scratch\nCOPY --chmod=888 a /x\n", 2, "--chmod=888 is no mode"),
        ("FROM scratch\nCOPY --chmod=17777 a /x\n", 2, "--chmod=17777 is no mode"),
        ("FROM scratch\nCOPY --chmod=u a /x\n", 2, "--chmod=u is no mode"),
        ("FROM scratch\nCOPY --chown=app a /x\n", 2, "the user 'app' is not in the image's"),
        ("FROM scratch\nCOPY etc /etc\nCOPY --chown=app:g a /x\n", 3, "the group 'g' is not in"),
        ("FROM scratch\nCOPY --chown=4294967295 a /x\n", 2, "4294967295 is out of range"),
        ("FROM scratch\nUSER app\nWORKDIR /x\n", 3, "the user 'app' is not in the image's"),
        ("FROM scratch\nCOPY a /x\nWORKDIR x/y\n", 3, "/x is not a directory"),
        ("FROM scratch\nCOPY --link --chown=app a /x\n", 2, "--link knows no names"),
        ("FROM scratch\nCOPY https://x/y /x\n", 2, "https://x/y is no file"),
        ("FROM scratch\nADD --checksum=sha256:0 a /x\n", 2, "--checksum is for URLs only"),
        ("FROM scratch\nCOPY <<a/b /x\na/b\n", 2, "no file can have the name 'a/b'"),
        ("FROM scratch\nCOPY ${X:?unset} /x\n", 2, "X: unset"),
        ("FROM scratch\nCOPY <<E /x\n${X:?unset}\nE\n", 2, "X: unset"),
        ("FROM scratch\nEXPOSE 80/icmp\n", 2, "has the protocol 'icmp'"),
        ("FROM scratch\nEXPOSE 70000\n", 2, "'70000' is not a port"),
        ("FROM scratch\nEXPOSE 9-8\n", 2, "ends before it starts"),
        ("FROM scratch\nEXPOSE 1-2:3-5\n", 2, "ranges of different lengths"),
        ("FROM scratch\nEXPOSE nowhere:1:2\n", 2, "'nowhere' is not an IP address"),
        ("FROM scratch\nARG V\nVOLUME $V\n", 3, "a volume has no path"),
        ("FROM scratch\nSTOPSIGNAL 0\n", 2, "'0' is not a signal"),
        ("FROM scratch\nSTOPSIGNAL SIGRTMIN+16\n", 2, "'SIGRTMIN+16' is not a signal"),
    ],
)
def test_a_mistake(dockerfile: str, line: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(DockerfileError) as raised:
        built(dockerfile, tmp_path, context=context())
    (found,) = raised.value.diagnostics
    assert (found.line, str(found.file)) == (line, "app/Dockerfile")
    assert message in found.message


@pytest.mark.parametrize(
    ("dockerfile", "what"),
    [
        (
            "FROM scratch\nCOPY image /\nCOPY --link a /tmp/a\n",
            "/tmp: the image's has 0777 and 0:0",
        ),
        ("FROM scratch\nCOPY image /\nCOPY --link a /lib/a\n", "/lib: the image has a symlink"),
        ("FROM scratch\nCOPY image /\nCOPY --link a /lib\n", "/lib: the image has a symlink"),
        ("FROM scratch\nCOPY image /\nCOPY --link a /usr\n", "/usr: the image has a directory"),
        ("FROM scratch\nCOPY image /\nCOPY --link d /file\n", "/file: the image has a file"),
        (
            "FROM scratch\nCOPY image /\nADD --link t.tar /\n",
            "/tmp: the image's has 0777 and 0:0",
        ),
    ],
)
def test_a_link_that_engines_disagree_on(dockerfile: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(DockerfileError, match="1 mistake") as raised:
        built(dockerfile, tmp_path, context=context())
    assert what in raised.value.diagnostics[0].message


@pytest.mark.parametrize(
    ("dockerfile", "line", "what"),
    [
        ("FROM scratch\nRUN true\n", 2, "RUN runs a program"),
        ("FROM scratch AS a\nRUN true\nFROM scratch\nCOPY --from=a /x /x\n", 2, "RUN runs"),
        ("FROM scratch AS a\nONBUILD RUN true\nFROM a\n", 2, "RUN runs a program"),
        ("FROM scratch\nADD https://x/y.tar /x\n", 2, "needs an engine with a network"),
        ("FROM scratch\nADD https://x/y.git#v1 /x\n", 2, "needs an engine with a network"),
        ("FROM scratch\nADD git@x.org:y/z.git /x\n", 2, "needs an engine with a network"),
        ("FROM scratch\nARG U=http\nADD $U://x /x\n", 3, "ADD of http://x needs an engine"),
    ],
)
def test_what_needs_an_engine(dockerfile: str, line: int, what: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(what)) as raised:
        built(dockerfile, tmp_path)
    assert raised.value.message.startswith(f"app/Dockerfile:{line}:")
    assert "engine" in raised.value.hint


def test_run_is_refused_before_any_image_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        built("FROM base\nCOPY --from=other /a /a\nRUN true\n", tmp_path)


def archive_error(tmp_path: Path, data: bytes, before: str = "") -> str:
    context = Case(name="", dockerfile=b"", context={"t": Entry(data=data), "a": text("a")})
    with pytest.raises((ImageError, DockerfileError)) as raised:
        built(f"FROM scratch\n{before}ADD t /x\n", tmp_path, context=context.context_tree())
    return raised.value.render()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([tars.regular("../out")], "entry ../out: it leads out of the archive"),
        ([tars.regular("a/../../out")], "it leads out of the archive"),
        ([tars.symlink("s", "/none"), tars.regular("s/f")], "a symlink that leads to nothing"),
        ([tars.symlink("s", "s"), tars.regular("s/f")], "is a loop of symlinks"),
        ([tars.regular("f"), tars.regular("f/g")], "/f is not a directory"),
        ([tars.regular(".")], "it would replace the destination"),
        ([tars.hard_link("h", "nowhere")], "a hard link to /nowhere, which is not there"),
        ([tars.directory("d"), tars.hard_link("h", "d")], "which is a directory"),
        ([tars.hard_link("h", "../../etc/passwd")], "which is not there"),
        ([tars.directory("a/b"), tars.symlink("a", "x")], "entry a/b: a later entry removes it"),
        ([tars.regular("a"), tars.hard_link("a", "a")], "a hard link to /a, which is not there"),
        ([tars.device("w", 0, 0)], "stands for a removed file"),
        ([tars.regular("n" * 256)], "no file can have the name nnn"),
    ],
)
def test_a_hostile_archive(entries: list[tars.Item], message: str, tmp_path: Path) -> None:
    error = archive_error(tmp_path, tars.archive(*entries))
    assert "app/Dockerfile:2" in error
    assert message in error


@pytest.mark.parametrize("cut", [512 + 100, 1024 + 512])
def test_an_archive_that_is_cut(cut: int, tmp_path: Path) -> None:
    data = tars.archive(tars.regular("a", b"x" * 600), tars.regular("b"))[:cut]
    assert "app/Dockerfile:2: t: it" in archive_error(tmp_path, data)
