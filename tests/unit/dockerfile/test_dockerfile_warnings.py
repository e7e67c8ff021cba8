"""What cannot be reproduced is told; what can be, or is only spoken of, is not."""

from __future__ import annotations

import pytest

from cagebuild.dockerfile import shell, stages
from cagebuild.dockerfile.warnings import warnings
from cagebuild.errors import Diagnostic
from tests.support.dockerfiles import read


def found(text: str) -> tuple[Diagnostic, ...]:
    dockerfile = read(text)
    return warnings(dockerfile, stages.needed(dockerfile, None, {}, "x86_64"))


def messages(body: str) -> list[str]:
    """Of a build stage, so that what a RUN leaves behind does not count."""
    return [w.message for w in found(f"FROM a AS b\n{body}\nFROM scratch\nCOPY --from=b /x /\n")]


def shipped(body: str) -> list[str]:
    return [w.message for w in found(f"FROM a\n{body}\n")]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("apt-get install -y curl", "apt-get install takes today's version of curl"),
        ("apt install -t x a b=1 c d e", "apt install takes today's version of a, c, d, …"),
        ("sudo -E apt-get -y install a", "apt-get install takes today's version of a"),
        ("DEBIAN_FRONTEND=x apt-get install a", "apt-get install takes today's version of a"),
        ("apt-get dist-upgrade", "apt-get dist-upgrade brings what is new today"),
        ("if x; then apt-get install a; fi", "apt-get install takes today's version of a"),
        ("bash -euxc 'apt-get install a'", "apt-get install takes today's version of a"),
        ("apk add --no-cache curl", "apk add takes today's version of curl"),
        ("apk add -t .deps gcc make=1", "apk add takes today's version of gcc"),
        ("apk upgrade", "apk upgrade brings what is new today"),
        ("dnf install -y curl", "dnf install takes today's version of curl"),
        ("yum -y update", "yum update brings what is new today"),
        ("microdnf install a-1.2-3.el9 b", "microdnf install takes today's version of b"),
        ("pip install flask", "pip install takes today's version of flask"),
        ("pip3.11 install 'a>=1' b==2", "pip install takes today's version of a>=1"),
        ("python3 -m pip install -U pip", "pip install takes today's version of pip"),
        ("uv pip install a", "pip install takes today's version of a"),
        ("npm install", "npm install resolves versions anew"),
        ("npm i -g typescript", "npm i resolves versions anew"),
        ("yarn install", "yarn install may change its lock file"),
        ("go install x.y/z@latest", "go takes today's version of x.y/z@latest"),
        ("gem install rails", "gem install takes today's version of rails"),
        ("cargo install ripgrep", "cargo install takes today's version"),
        ("cargo install ripgrep@14.0.0", "cargo install resolves dependencies anew"),
        ("curl -fsSL https://x/y | sh", "curl gets https://x/y, and nothing checks what it is"),
        ("wget -O a http://x/y", "wget gets http://x/y, and nothing checks what it is"),
        ("git clone https://x/y", "git clone takes what the branch or tag is today"),
        ("git clone -b v1 https://x/y", "git clone takes what the branch or tag is today"),
        ("date > /built", "date gives the time of the build"),
        ("make T=$(date +%s)", "date gives the time of the build"),
        ('X="`date`"', "date gives the time of the build"),
        ("echo $RANDOM > /x", "this is another value in each build"),
        ("uuidgen > /id", "this is another value in each build"),
        ("head -c 9 /dev/urandom > /k", "this is another value in each build"),
        (
            "openssl genrsa -out k",
            "openssl makes another key in each build, and all who have the image have it",
        ),
        (
            "ssh-keygen -A",
            "ssh-keygen makes another key in each build, and all who have the image have it",
        ),
        ("<<EOF\napk add a\nEOF", "apk add takes today's version of a"),
        ("<<EOF\n#!/bin/bash -e\napk add a\nEOF", "apk add takes today's version of a"),
        ("bash -e <<EOF\napk add a\nEOF", "apk add takes today's version of a"),
        ('["apk", "add", "a"]', "apk add takes today's version of a"),
        ('["/bin/sh", "-c", "apk add a"]', "apk add takes today's version of a"),
        (
            "--mount=type=cache,target=/x true",
            "a mount of type=cache has what earlier builds left in it",
        ),
    ],
)
def test_what_varies(run: str, message: str) -> None:
    assert messages(f"RUN {run}") == [message]


@pytest.mark.parametrize(
    "run",
    [
        'echo "apt-get install x"',
        "echo 'x; apk add y'",
        "# apk add x",
        "true # apk add x",
        "cat <<EOF > /x\napk add y\nEOF",
        "<<EOF\n#!/usr/bin/env python3\npip install x\nEOF",
        "<<EOF python3\npip install x\nEOF",
        '["echo", "apk add x"]',
        "apt-get update && apt-get install -y a=1 ./b.deb /c.deb && rm -rf /x",
        "apt-get install $PACKAGES",
        "apt-get --snapshot=20240101T000000Z install a",
        "apt-get remove a; apt-get clean",
        "apk add a=1 b~2 'c>3'",
        "apk del x",
        "dnf install a-1.2-3.el9.x86_64 https://x/y.rpm",
        "pip install -r requirements.txt",
        "pip install --require-hashes -r a -r b",
        "pip install a==1 b[x]==2 git+https://x@y ./dir .",
        "pip install -c constraints.txt a",
        "pip download x; pip list",
        "npm ci; npm run install; npm i -g a@1.2.3 @b/c@2.0.0",
        "yarn install --frozen-lockfile",
        "go install x.y/z@v1.2.3 && go install ./... && go build",
        "gem install a:1 && gem install b -v 2",
        "cargo install a@1 --locked; cargo install --path . --locked; cargo build",
        "curl -O https://x/y && echo 'h  y' | sha256sum -c -",
        "wget https://x/y && gpg --verify y.asc y",
        "curl http://localhost:80/; curl -I https://x; curl --version",
        "git clone https://x/y && cd y && git checkout 0123456789abcdef",
        "git clone https://x/y && git -C y checkout $COMMIT",
        "date; echo $(date)",
        'date -u -d "@$SOURCE_DATE_EPOCH" > /x; touch -d "$(date -r /y)" z',
        "echo '$RANDOM'",
        "ssh-keygen -lf k; openssl x509 -in c",
        "for apk in add b; do echo x; done",
        "case x in apk) true;; esac",
        "--mount=type=bind,target=/x true",
    ],
)
def test_what_does_not(run: str) -> None:
    assert messages(f"RUN {run}") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ADD https://x/y /z", "ADD gets https://x/y, and nothing checks what it is"),
        ("ADD https://x/y.git#main /z", "ADD takes what https://x/y.git#main is today"),
        ("ADD git@x:y.git /z", "ADD takes what git@x:y.git is today"),
    ],
)
def test_add(body: str, message: str) -> None:
    assert messages(body) == [message]


@pytest.mark.parametrize(
    "body",
    [
        f"ADD --checksum=sha256:{'0' * 64} https://x/y /z",
        f"ADD https://x/y.git#{'0' * 40} /z",
        f"ADD https://x/y.git#{'0' * 40}:sub /z",
        "ADD https://x/y.git#$COMMIT /z",
        "ADD a b /z",
        "COPY a b /z",
    ],
)
def test_add_of_what_is_fixed(body: str) -> None:
    assert messages(body) == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("RUN useradd x", "/etc/shadow"),
        ("RUN adduser -S x", "/etc/shadow"),
        ("RUN apt-get install -y a=1", "/var/log/apt"),
        ("RUN apt-get update", "lists of packages"),
        ("RUN pip install a==1", ".pyc"),
        ("RUN mktemp", "another name"),
    ],
)
def test_what_a_shipped_stage_leaves_behind(body: str, part: str) -> None:
    (message,) = shipped(body)
    assert part in message
    assert messages(body) == []


@pytest.mark.parametrize(
    "body",
    [
        "ARG SOURCE_DATE_EPOCH\nRUN useradd x && pip install a==1",
        "ENV SOURCE_DATE_EPOCH=0\nRUN useradd x",
        "RUN useradd x && sed -i s/a/b/ /etc/shadow",
        "RUN useradd x && chage -d 1 x",
        "RUN pip install --no-compile a==1",
        "RUN apt-get update && apt-get install a=1 && rm -rf /var/lib/apt /var/log/*",
        "RUN apt-get install a=1\nRUN rm -rf /var/log/apt /var/log/dpkg.log",
        "RUN T=$(mktemp -d) && rm -r $T",
    ],
)
def test_what_a_shipped_stage_removes(body: str) -> None:
    assert shipped(body) == []


def test_a_stage_below_the_target_is_shipped_too() -> None:
    assert len(found("FROM a AS b\nRUN useradd x\nFROM b\n")) == 1
    assert found("FROM a AS unused\nRUN useradd x; apk add y\nFROM b\n") == ()


def test_each_warning_points_at_its_command() -> None:
    text = 'FROM a\nRUN echo "apk add x" && \\\n  # apk\n  true && \\\n  apk add y\n'
    (warning,) = found(text)
    assert (warning.line, warning.column, warning.width) == (5, 3, 3)
    text = "FROM a\nRUN <<EOF\necho apk\n  apk add y\nEOF\n"
    (warning,) = found(text)
    assert (warning.line, warning.column) == (4, 3)


def test_the_line_of_the_command_not_of_the_run() -> None:
    (warning,) = found("FROM a\nRUN true \\\n && true \\\n && date > /x\n")
    assert (warning.line, warning.column, warning.hint[:3]) == (4, 5, "put")


def test_a_frontend_of_another_kind() -> None:
    assert found("# syntax=docker/dockerfile:1\nFROM scratch\n") == ()
    (warning,) = found("# syntax=a/b\nFROM scratch\n")
    assert (warning.line, warning.column, warning.width) == (1, 10, 3)


def test_another_shell_is_not_understood() -> None:
    assert shipped('SHELL ["pwsh", "-c"]\nRUN apk add x') == []
    assert shipped('SHELL ["/bin/bash", "-c"]\nRUN apk add x') != []


def test_the_number_of_warnings_is_bounded() -> None:
    assert len(found("FROM a\n" + "RUN apk add x\n" * 300)) == 100


@pytest.mark.parametrize(
    ("script", "programs"),
    [
        ("a && b || c; d | e & f\ng", ["a", "b", "c", "d", "e", "f", "g"]),
        ("A=1 B=2 a", ["a"]),
        ("env -i A=1 nice -n 5 a", ["a"]),
        ("(a; b) && { c; }", ["a", "b", "c", "}"]),
        ("a 2>&1 >b <c >>d", ["a"]),
        ('a $(b `c`) "$(d)"', ["a", "b", "c", "d"]),
        ("a '$(b)' \\$\\(c", ["a"]),
        ("a $((1 + 2)) ${b:-(c)}", ["a"]),
        ("a <<X\nb\nX\nc", ["a", "c"]),
        ("a <<-X\n\tb\n\tX\nc", ["a", "c"]),
        ("a <<<b", ["a"]),
        ("/usr/bin/a", ["a"]),
        ("f() { a; }", ["f", "a", "}"]),
        ("a 'b", ["a"]),
        ('a "b $(c', ["a", "c"]),
        ("sh -c 'a; sh -c \"b\"'", ["sh", "a", "sh", "b"]),
    ],
)
def test_the_commands_of_a_script(script: str, programs: list[str]) -> None:
    assert [command.program for command in shell.commands(script)] == programs
