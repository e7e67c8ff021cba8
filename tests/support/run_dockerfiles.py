"""Dockerfiles with RUN, on a base with a shell: what broke other systems, and what has to come out.

Each shows what it came to in files, so that all engines can be held to one text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.dockerfile_table import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.dockerfile_table import Entry

BASE: Final = b"@BASE@"
"""Stands for the image with a shell: user app, folder /work, Cmd, Env FROM_BASE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCase:
    """A Dockerfile, and what its image has below /out and in its config."""

    name: str
    dockerfile: bytes
    files: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Entry] = field(default_factory=lambda: {"a": text("a\n")})
    args: Mapping[str, str] = field(default_factory=dict)


def _case(name: str, body: str, files: Mapping[str, str], **more: Any) -> RunCase:
    dockerfile = f"FROM {BASE.decode()}\nUSER root\nWORKDIR /out\n{body}"
    return RunCase(name=name, dockerfile=dockerfile.encode(), files=files, **more)


CASES: Final = (
    _case(
        "a comment in a continued RUN",
        "RUN echo one > a && \\\n# at column 0\n    echo two > b && \\\n   # indented\n"
        '    echo three > c\nCMD ["kept"]\n',
        {"a": "one\n", "b": "two\n", "c": "three\n"},
        config={"Cmd": ["kept"]},
    ),
    _case(
        "empty lines in a continued RUN",
        'RUN echo one \\\n\n\n  > a\nCMD ["kept"]\n',
        {"a": "one\n"},
        config={"Cmd": ["kept"]},
    ),
    _case(
        "a heredoc right before CMD",
        'RUN <<EOF\necho one > a\necho "$FROM_BASE" > b\nEOF\nCMD ["kept"]\n',
        {"a": "one\n", "b": "yes\n"},
        config={"Cmd": ["kept"]},
    ),
    _case(
        "heredocs of COPY",
        "COPY <<EOF /out/a\nv=$FROM_BASE\nEOF\nCOPY <<'EOF' /out/b\nv=$FROM_BASE\nEOF\n"
        "COPY <<-EOF /out/c\n\ttab\n\tEOF\nRUN true\n",
        {"a": "v=yes\n", "b": "v=$FROM_BASE\n", "c": "tab\n"},
    ),
    RunCase(
        name="line ends of Windows, a byte order mark, a tab after FROM",
        dockerfile=b"\xef\xbb\xbfFROM\t@BASE@\r\nUSER root\r\nWORKDIR /out\r\n"
        b'RUN echo one > a && \\\r\n  echo two > b\r\nCMD ["kept"]\r\n',
        files={"a": "one\n", "b": "two\n"},
        config={"Cmd": ["kept"]},
    ),
    RunCase(
        name="another escape character",
        dockerfile=b"# escape=`\nFROM @BASE@\nUSER root\nWORKDIR /out\n"
        b"RUN echo one > a && `\n  echo 'b\\c' > b\n",
        files={"a": "one\n", "b": "b\\c\n"},
    ),
    _case(
        "white space after the escape character",
        "RUN echo one > a && \\  \n  echo two > b\n",
        {"a": "one\n", "b": "two\n"},
    ),
    _case(
        "commas and ampersands in a list",
        'CMD ["sh","-c","echo a, b && c"]\nRUN ["sh", "-c", "echo a, b > a"]\n',
        {"a": "a, b\n"},
        config={"Cmd": ["sh", "-c", "echo a, b && c"]},
    ),
    _case(
        "ports",
        "ENV PORT=9999\nEXPOSE 80/tcp\nEXPOSE 81 82/udp\nEXPOSE $PORT\nRUN true\n",
        {},
        config={"ExposedPorts": ["80/tcp", "81/tcp", "82/udp", "9090/tcp", "9999/tcp"]},
    ),
    _case(
        "environment in every form",
        "ENV A='x y' B=\"z w\" C=c\\ d \\\n  D=d\nENV E e f\nENV F=$A-$D\n"
        'RUN printf "%s|%s|%s|%s|%s|%s" "$A" "$B" "$C" "$D" "$E" "$F" > a\n',
        {"a": "x y|z w|c d|d|e f|x y-d"},
        config={
            "Env": [
                "PATH=/usr/local/bin:/bin",
                *("FROM_BASE=yes", "A=x y", "B=z w", "C=c d", "D=d", "E=e f", "F=x y-d"),
            ]
        },
    ),
    _case(
        "an empty entrypoint",
        'ENTRYPOINT ["/gone"]\nENTRYPOINT []\nCMD ["kept"]\nRUN true\n',
        {},
        config={"Entrypoint": None, "Cmd": ["kept"]},
    ),
    RunCase(
        name="all of the config from the base",
        dockerfile=b"FROM @BASE@\nUSER root\nRUN mkdir /out && id -u > /out/a\nUSER app\n",
        files={"a": "0\n"},
        config={
            "Cmd": ["/bin/sh", "-c", "echo base"],
            "User": "app",
            "WorkingDir": "/work",
            "StopSignal": "SIGINT",
            "ExposedPorts": ["9090/tcp"],
            "Labels": {"made-for": "tests"},
        },
    ),
    RunCase(
        name="an entrypoint drops the base's command",
        dockerfile=b'FROM @BASE@\nENTRYPOINT ["/bin/cat"]\n',
        config={"Entrypoint": ["/bin/cat"], "Cmd": None},
    ),
    RunCase(
        name="nothing of an earlier stage leaks",
        dockerfile=b"FROM @BASE@ AS first\nUSER root\nENV LEAK=yes\nWORKDIR /out\nEXPOSE 1\n"
        b'RUN echo one > /out/a\nCMD ["first"]\nENTRYPOINT ["first"]\n'
        b"FROM @BASE@\nCOPY --from=first /out /out\nCOPY --from=0 /out/a /out/b\n",
        files={"a": "one\n", "b": "one\n"},
        config={
            "Cmd": ["/bin/sh", "-c", "echo base"],
            "Entrypoint": None,
            "Env": ["PATH=/usr/local/bin:/bin", "FROM_BASE=yes"],
            "User": "app",
            "WorkingDir": "/work",
            "ExposedPorts": ["9090/tcp"],
        },
    ),
    _case(
        "characters that shells, printf and JSON make something of",
        'RUN printf "%s" "100%d \\$X \\"q\\"" > a\n'
        'CMD ["%d", "$X", "\\"", "\'", "\\n", "\\u00e9", "a\\\\b"]\n',
        {"a": '100%d $X "q"'},
        config={"Cmd": ["%d", "$X", '"', "'", "\n", "é", "a\\b"]},
    ),
    _case(
        "users by number, by name, without a shell",
        "RUN chmod 777 .\nUSER 1234:77\nRUN id -u > a && id -g > b\nUSER app\n"
        "RUN id -u > c && id -g > d\n",
        {"a": "1234\n", "b": "77\n", "c": "1000\n", "d": "1001\n"},
        config={"User": "app"},
    ),
    _case(
        "arguments with and without a default",
        'ARG ONE\nARG TWO=two\nARG THREE=three\nRUN printf "%s|%s|%s" "$ONE" "$TWO" "$THREE" > a\n',
        {"a": "|2 x|three"},
        args={"TWO": "2 x"},
    ),
    RunCase(
        name="an image by an argument, and scopes of arguments",
        dockerfile=b"ARG BASE=@BASE@\nARG TAG=tag\nFROM ${BASE}\nUSER root\nARG TAG\nARG BASE=x\n"
        b'WORKDIR /out\nRUN printf "%s|%s" "$TAG" "$BASE" > a\n',
        files={"a": "tag|x"},
    ),
    _case(
        "a health check with a query",
        'HEALTHCHECK --interval=5s CMD ["/bin/wget", "http://localhost/h?a=1&b=2"]\nRUN true\n',
        {},
        config={
            "Healthcheck": [
                ["CMD", "/bin/wget", "http://localhost/h?a=1&b=2"],
                [5_000_000_000, 0, 0, 0],
            ]
        },
    ),
    _case(
        "another shell",
        'SHELL ["/bin/sh", "-euc"]\nRUN echo $0 > a\nCMD echo kept\n',
        {"a": "/bin/sh\n"},
        config={"Cmd": ["/bin/sh", "-euc", "echo kept"]},
    ),
    _case(
        "links, modes, owners and what is removed",
        "COPY a one\nRUN ln one two && chmod 4755 one && chown 5:6 two && mkdir -m 1777 t && \\\n"
        "  touch gone && rm gone && mv two three\nRUN rm -r t && mkdir t && touch t/new\n",
        {"one": "a\n", "three": "a\n", "t/new": ""},
    ),
    RunCase(
        name="everything of a stage, and a cache",
        dockerfile=b"FROM @BASE@ AS first\nUSER root\nWORKDIR /out\n"
        b"RUN --mount=type=cache,target=/var/cache/x --mount=type=tmpfs,target=/t echo one > a\n"
        b"FROM scratch\nCOPY --from=first / /\nRUN echo two > /out/b\n",
        files={"a": "one\n", "b": "two\n"},
        config={"Cmd": None, "User": ""},
    ),
    _case(
        "an environment for a build of its own date",
        'ARG SOURCE_DATE_EPOCH\nRUN date -u -d "@$SOURCE_DATE_EPOCH" +%Y > a\n',
        {"a": "2001\n"},
    ),
    _case(
        "a date of the context's files",
        "COPY a b\nRUN stat -c %Y b > c\n",
        {"b": "a\n", "c": "1000000000\n"},
    ),
)
