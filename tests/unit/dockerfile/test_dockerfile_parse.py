"""Reading Dockerfiles: directives, lines, heredocs, flags, and every mistake with its place.

What is expected was compared with moby/buildkit v0.34.2, some hundred thousand random files too.
"""

from __future__ import annotations

import pytest

from cagebuild.dockerfile.flags import duration, mount
from cagebuild.dockerfile.parse import LARGEST
from cagebuild.errors import DockerfileError
from tests.support.dockerfiles import FILE, instructions, mistakes, one, read


@pytest.mark.parametrize(
    ("text", "image", "line"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a\n", "docker/dockerfile:1", 1),
        ("#SYNTAX = a/b:1 --flag\nFROM a\n", "a/b:1", 1),
        ("# escape=`\n# syntax=a/b\nFROM a\n", "a/b", 2),
        ("# check=skip=all\r\n# syntax=a/b\r\nFROM a\r\n", "a/b", 2),
        ("#!/usr/bin/docker\n# syntax=a/b\nFROM a\n", "a/b", 2),
        ("\ufeff# syntax=a/b\nFROM a\n", "a/b", 1),
    ],
)
def test_the_syntax_directive(text: str, image: str, line: int) -> None:
    found = read(text)
    assert found.syntax is not None
    assert (found.syntax.image, found.syntax.line) == (image, line)
    assert found.data[slice(*found.syntax.span)].decode() == image


@pytest.mark.parametrize(
    "before", ["\n", "# a comment\n", "# other=x\n", " ", "FROM b\n"], ids=repr
)
def test_what_is_no_directive_any_more(before: str) -> None:
    assert read(before + "# syntax=a/b\nFROM a\n").syntax is None


def test_an_escape_directive_may_be_indented_but_not_follow_a_comment() -> None:
    assert read("  # escape = ` \nFROM a\n").escape == "`"
    assert read("# a\n# escape=`\nFROM a\n").escape == "\\"
    assert read("#!/x\n# escape=`\nFROM a\n").escape == "\\"


def test_mistakes_in_directives() -> None:
    assert mistakes("# escape=x\n# escape=`\nFROM a\n") == [
        (1, "'x' cannot be the escape character"),
        (2, "the directive 'escape' is given twice"),
    ]


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("RUN a \\\\\nCMD b", ["a \\\\", "b"]),
        ("RUN a\\\nb", ["ab"]),
        ("RUN \\\n a", ["a"]),
        ("RU\\\nN a", ["a"]),
        ("\\\nRUN a", ["a"]),
        ("RUN a \\", ["a"]),
        ("RUN a `\nCMD b", ["a `", "b"]),
        ("  RUN a", ["a"]),
        ("RUN a # b", ["a # b"]),
        ("RUN a\n# \\\nRUN b", ["a", "b"]),
    ],
)
def test_continuations(text: str, joined: list[str]) -> None:
    assert [each.text for each in instructions(f"FROM x\n{text}")] == joined


@pytest.mark.parametrize(
    ("text", "bodies"),
    [
        ("RUN <<EOF\na\nEOF\n", [("EOF", "a\n", True)]),
        ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF\n", [("EOF", "a\nb\n", True)]),
        ("RUN <<'EOF'\n$a\nEOF\n", [("EOF", "$a\n", False)]),
        ('RUN <<"E O"\n$a\nE O\n', [("E O", "$a\n", False)]),
        ("RUN <<eo\\'f\na\neo'f\n", [("eo'f", "a\n", True)]),
        ("RUN << EOF\na\nEOF\n", [("EOF", "a\n", True)]),
        ("RUN 3<<EOF cat <&3\na\r\nEOF\r\n", [("EOF", "a\r\n", True)]),
        ("RUN <<$EOF\n$EOF\n", [("$EOF", "", True)]),
        ("RUN cat <<A >x && cat <<B\n1\nA\n2\nB\n", [("A", "1\n", True), ("B", "2\n", True)]),
        ("COPY <<X <<Y /d\nY\nX\nX\nY\n", [("X", "Y\n", True), ("Y", "X\n", True)]),
        ("ADD <<EOF /d\nEOF\n", [("EOF", "", True)]),
        ("RUN --mount=type=cache,target=/x <<EOF\na\\\nEOF\n", [("EOF", "a\\\n", True)]),
    ],
)
def test_heredocs(text: str, bodies: list[tuple[str, str, bool]]) -> None:
    found, cmd = instructions(f"FROM x\n{text}CMD y\n")
    assert [(each.name, each.content, each.expand) for each in found.heredocs] == bodies
    assert cmd.text == "y"


@pytest.mark.parametrize(
    "text",
    [
        'RUN "<<EOF"',
        "RUN echo '<<EOF'",
        'RUN ["<<EOF"]',
        "RUN a <<<EOF",
        "RUN it's <<EOF",
        "USER <<EOF",
        "CMD <<EOF",
        "ENTRYPOINT <<EOF",
        "RUN a << ",
    ],
)
def test_what_is_no_heredoc(text: str) -> None:
    assert one(text).heredocs == ()


def test_a_heredoc_in_onbuild() -> None:
    found = one("ONBUILD RUN <<EOF\na\nEOF\n")
    assert found.inner is not None
    assert found.inner.heredocs == found.heredocs
    assert found.heredocs[0].content == "a\n"


def test_onbuild_holds_an_instruction() -> None:
    found = one("ONBUILD COPY --from=x a b")
    assert found.text == "COPY --from=x a b"
    assert found.inner is not None
    assert (found.inner.keyword, found.inner.words) == ("COPY", ("a", "b"))
    assert [origin.name for origin in found.inner.origins] == ["x"]


def test_health_checks() -> None:
    assert one("HEALTHCHECK NONE").words == ("NONE",)
    found = one('HEALTHCHECK --retries=3 cmd ["a", "b"]')
    assert found.words == ("CMD",)
    assert found.inner is not None
    assert found.inner.exec_form == ("a", "b")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("30s", 30 * 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("2ms", 2000000),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1s ", "1" * 101 + "s", "1.2.3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration(text)


def test_flags_keep_their_order_and_lose_their_quotes() -> None:
    found = one("COPY --chown=\"1:1\" --exclude='a b' --exclude=c --link --chmod=7\\55 a b c/")
    assert found.flags == (
        ("chown", "1:1"),
        ("exclude", "a b"),
        ("exclude", "c"),
        ("link", ""),
        ("chmod", "755"),
    )
    assert found.words == ("a", "b", "c/")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ENV A=\\\\\\", "\\\\"),
        ('ENV A="b\\\\\\', '"b\\\\'),
        ("ENV A='b\\\\\\", "'b\\\\\\"),
        ('ENV A="b c', '"b c'),
        ("ENV A=b'c d'\"e f\"g", "b'c d'\"e f\"g"),
        ("ENV A=b\\'c", "b\\'c"),
    ],
)
def test_quotes_and_escapes_stay_but_for_an_escape_at_the_end(text: str, value: str) -> None:
    assert one(text).pairs == (("A", value),)


def test_two_dashes_end_the_flags() -> None:
    assert one("COPY -- --a b").words == ("--a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "COPY --from=image:1 a b",
        'COPY --from="image:1" a b',
        "COPY --link \\\n  --from=image:1 a b",
        "RUN --mount=type=bind,from=image:1,target=/x true",
        "RUN --mount=type=cache,target=/c --mount=from=image:1,target=/x true",
        'RUN --mount="from=image:1,target=/a b" true',
        "RUN --mount='\"from=image:1\",target=/x' true",
        "ONBUILD RUN --mount=from=image:1,target=/x true",
    ],
)
def test_where_images_are_named(text: str) -> None:
    found = read(f"FROM é\n{text}\n")
    (instruction,) = found.stages[0].instructions
    (origin,) = (instruction.inner or instruction).origins
    assert origin.name == "image:1"
    assert found.data[slice(*origin.span)] == b"image:1"


def test_an_image_that_is_broken_over_lines() -> None:
    found = read("FROM deb\\\n# why\nian:12 AS x\n")
    assert found.stages[0].image == "debian:12"
    assert found.data[slice(*found.stages[0].image_span)] == b"deb\\\n# why\nian:12"
    assert found.data[: found.stages[0].words_end].endswith(b"AS x")


def test_options_of_a_mount() -> None:
    assert mount('from=a,"target=/x,y",RO') == {
        "type": "bind",
        "from": "a",
        "target": "/x,y",
        "ro": "",
    }


def test_stages_and_global_args() -> None:
    found = read("ARG A=1 B\nARG C\nFROM --platform=linux/amd64 $A as Build\nFROM build\n")
    assert [pair for each in found.global_args for pair in each.pairs] == [
        ("A", "1"),
        ("B", None),
        ("C", None),
    ]
    first, second = found.stages
    assert (first.name, first.image, second.image) == ("build", "$A", "build")
    assert first.from_instruction.flag("platform") == "linux/amd64"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM", "FROM needs an image, or an image and AS name"),
        ("FROM a b", "FROM needs an image, or an image and AS name"),
        ("FROM a AS 1b", "'1b' cannot be the name of a stage"),
        ("FROM a AS b/c", "'b/c' cannot be the name of a stage"),
        ("FROM --platfrm=x a", "FROM has no flag --platfrm"),
        ("RUNN x", "unknown instruction 'RUNN'"),
        ("COPY a", "COPY needs a source and a destination"),
        ("COPY --chmod a b", "--chmod needs a value: --chmod=…"),
        ("COPY --from=a --from=b a b", "--from is given twice"),
        ("COPY --link=maybe a b", "--link is followed by something else than true or false"),
        ("COPY --chown=ü a b", "--chown holds other characters than ASCII, which BuildKit garbles"),
        ("COPY --from=$X a b", "variables are not expanded in from=$X"),
        ("COPY --from='a'b a b", "quotes or escapes inside of from=ab"),
        ("COPY a <<EOF", "a heredoc cannot be the destination of COPY"),
        ("ADD --from=x a b", "ADD has no flag --from"),
        ("RUN --network=some x", "--network has to be one of default, host, none"),
        ("RUN --security=x y", "--security has to be one of insecure, sandbox"),
        ("RUN --mount=type=bnd,target=/x y", "no type of mount: 'bnd'"),
        ("RUN --mount=type=bind,tgt=/x y", "a mount has no option 'tgt'"),
        ("RUN --mount=type=bind,target y", "the option 'target' of a mount needs a value"),
        ("RUN --mount=type=secret,id=a,from=b y", "a mount of a secret has no from="),
        ("RUN --mount='a\"b' y", '--mount=a"b: a " stands inside of a field'),
        ("RUN --mount='\"a' y", '--mount="a: a " is not closed'),
        ("RUN --mount= y", "--mount=: it is empty"),
        ("RUN <<EOF\nx", "the heredoc 'EOF' does not end"),
        ("CMD [1]", "only texts may stand in a JSON array"),
        ("RUN " + "[" * 20_000 + "]" * 20_000, "only texts may stand in a JSON array"),
        ("SHELL bash", "SHELL needs a JSON array"),
        ("SHELL []", "SHELL needs a JSON array"),
        ("ENV", "ENV needs an argument"),
        ("ENV A", "ENV needs a name and a value"),
        ("ENV A=1 B", "ENV has 'B' without a value"),
        ("ENV =1", "ENV has a value without a name: '=1'"),
        ("ARG", "ARG needs a name"),
        ("ARG =1", "ARG has a value without a name: '=1'"),
        ("EXPOSE", "EXPOSE needs an argument"),
        ("USER", "USER needs an argument"),
        ("WORKDIR", "WORKDIR needs an argument"),
        ("STOPSIGNAL", "STOPSIGNAL needs an argument"),
        ("MAINTAINER", "MAINTAINER needs an argument"),
        ("VOLUME", "VOLUME needs an argument"),
        ('VOLUME [" "]', "a volume needs a name"),
        ("HEALTHCHECK", "HEALTHCHECK needs an argument"),
        ("HEALTHCHECK CMD", "HEALTHCHECK CMD needs a command"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK SOME x", "HEALTHCHECK does not know 'SOME'"),
        ("HEALTHCHECK --interval=5 CMD x", "--interval has to be a duration like 30s or 1m30s"),
        ("HEALTHCHECK --timeout=1us CMD x", "--timeout cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "--retries has to be a number from 0"),
        ("ONBUILD", "ONBUILD needs an instruction"),
        ("ONBUILD ONBUILD RUN x", "ONBUILD cannot stand in ONBUILD"),
        ("ONBUILD FROM x", "FROM cannot stand in ONBUILD"),
        ("ONBUILD MAINTAINER x", "MAINTAINER cannot stand in ONBUILD"),
        ("ONBUILD COPPY x", "unknown instruction 'COPPY'"),
        ("RUN a\0b", "a NUL byte stands in the instruction"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    assert (2, message) in mistakes(f"FROM x\n{text}\n")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("RUNN x", "did you mean 'RUN'?"),
        ("COPY --form=x a b", "did you mean 'from'?"),
        ("ADD --from=x a b", "it is a flag of COPY"),
        ("CMD --chown=1 a", "it is a flag of ADD and COPY"),
        ("RUN --mount=type=cahce,target=/x y", "did you mean 'cache'?"),
    ],
)
def test_what_was_meant(text: str, hint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        read(f"FROM x\n{text}\n")
    assert caught.value.diagnostics[0].hint == hint


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    found = mistakes("RUN a\nFROM x\nENV\nFOO\nFROM x AS y\nFROM x AS Y\n")
    assert found == [
        (1, "RUN stands before the first FROM"),
        (3, "ENV needs an argument"),
        (4, "unknown instruction 'FOO'"),
        (6, "the stage 'y' is there already, in line 5"),
    ]


def test_how_a_mistake_looks() -> None:
    with pytest.raises(DockerfileError) as caught:
        read("FROM x\n\tFOO \x1b[31m\n")
    assert caught.value.render() == (
        f"{FILE}:2:2: unknown instruction 'FOO'\n"
        "  2 |  FOO \ufffd[31m\n"
        "    |  ^~~\n"
        "\n"
        "1 mistake in the Dockerfile"
    )


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("RUN \\\n  --mount=type=bind,tgt=/x \\\n  --netwrk=none x", [(3, 21, 6), (4, 3, 13)]),
        ("ONBUILD \\\n FOO", [(3, 2, 3)]),
        ("COPY --link --form='a b' c d", [(2, 13, 11)]),
        ("COPY --from=é$X c d", [(2, 13, 3), (2, 6, 10)]),
    ],
)
def test_where_in_the_instruction(text: str, place: list[tuple[int, int, int]]) -> None:
    with pytest.raises(DockerfileError) as caught:
        read(f"FROM x\n{text}\n")
    found = [(each.line, each.column, each.width) for each in caught.value.diagnostics]
    assert sorted(found) == sorted(place)


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n"])
def test_a_file_of_nothing(text: str) -> None:
    assert mistakes(text) == [(0, "there is no instruction in it")]


def test_a_file_without_from() -> None:
    assert mistakes("ARG A\n") == [(0, "there is no FROM in it")]


def test_a_file_in_another_encoding() -> None:
    assert mistakes("FROM a\nENV A=ü\n".encode("latin-1")) == [(2, "the instruction is not UTF-8")]
    assert read("FROM a # ok\n# ü\n".replace(" # ok", "").encode("latin-1")).stages


def test_bytes_of_a_heredoc_survive() -> None:
    found = read(b"FROM a\nCOPY <<'E' /x\n\xff\nE\n").stages[0].instructions[0]
    assert found.heredocs[0].content.encode("utf-8", "surrogateescape") == b"\xff\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#" * (LARGEST + 1), "larger than 1 MiB, so hardly a Dockerfile"),
        (b"FROM a\n" + b"RUN " + b"x" * 65_536, "the line is longer than 65535 bytes"),
        (b"FROM a\n" * 1001, "there are more than 1000 stages"),
    ],
    ids=["file", "line", "stages"],
)
def test_limits(data: bytes, message: str) -> None:
    assert message in [said for _, said in mistakes(data)]


def test_the_number_of_mistakes_is_bounded() -> None:
    assert len(mistakes("FOO\n" * 5000)) == 100
