"""Sessions: `pcr` as every monorepo has it, and this project's own.

They run in the environment that `./setup dev` makes: one set of locked packages for all of them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

from cagebuild.runtime.toolchain import provide
from cagebuild.sessions import *  # noqa: F403

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"

TYPED = ("cagebuild", "tests", "benchmarks", "noxfile.py", "tasks.py")
STATICCHECK = "v0.8.2"
MADE = ".nox/made"
"""A store for what the recipes make."""
FAST = "not integration and not network and not fuzz"


def python(session: nox.Session, *words: str) -> None:
    """Run this interpreter with the session's own words after those given."""
    session.run(sys.executable, *words, *session.posargs, external=True)


def no_skips() -> tuple[str, ...]:
    """In CI everything is installed, so a test that is skipped would hide something."""
    return ("-p", "tests.support.no_skips") if os.environ.get("CI") else ()


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and format."""
    python(session, "-m", "ruff", "check")
    python(session, "-m", "ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Strict typing of everything that is Python here."""
    python(session, "-m", "mypy", *TYPED)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit, property and golden tests: no server, no network, no root."""
    python(session, "-m", "pytest", "-q", "-n", "auto", "-m", FAST)


@nox.session
def integration(session: nox.Session) -> None:
    """Tests with real servers, programs and package archives; .ci/setup installs what they need."""
    python(session, "-m", "pytest", "-q", *no_skips(), "-m", "integration or network")


@nox.session
def fuzz(session: nox.Session) -> None:
    """A short run of every fuzzer."""
    python(session, "-m", "pytest", "-q", *no_skips(), "-m", "fuzz")


@nox.session
def docs(session: nox.Session) -> None:
    """The reference is what the schema says; `-- --write` renews it."""
    page = Path("docs/cage-toml.md")
    made = session.run(sys.executable, "-m", "cagebuild.config.docs", silent=True, external=True)
    if "--write" in session.posargs:
        page.write_text(str(made))
    elif page.read_text() != made:
        session.error(f"{page} is not what the schema says; renew it: nox -s docs -- --write")


@nox.session
def go(session: nox.Session) -> None:
    """The Go module, with the toolchain that builds it: format, vet, static checks, tests."""
    goroot = provide(Path(".nox/go").resolve())
    session.env["PATH"] = f"{goroot / 'bin'}{os.pathsep}{os.environ['PATH']}"
    session.env.update(GOROOT=str(goroot), GOTOOLCHAIN="local")
    session.chdir("runtime")
    gofmt, program = str(goroot / "bin/gofmt"), str(goroot / "bin/go")
    unformatted = session.run(gofmt, "-l", ".", silent=True, external=True)
    if unformatted:
        session.error(f"not as gofmt writes it: {unformatted}")
    for architecture in ("amd64", "arm64"):
        session.run(program, "vet", "./...", env={"GOARCH": architecture}, external=True)
    staticcheck = f"honnef.co/go/tools/cmd/staticcheck@{STATICCHECK}"
    session.run(program, "run", staticcheck, "./...", external=True)
    # Once static, as it is built: a test boots it as process 1, where no other file is.
    # One package at a time: many of these tests are whole programs' traffic, with deadlines.
    session.run(program, "test", "-p=1", "./...", env={"CGO_ENABLED": "0"}, external=True)
    session.run(program, "test", "-p=1", "-race", "./...", env={"CGO_ENABLED": "1"}, external=True)


@nox.session
def emulator(session: nox.Session) -> None:
    """Make what boots an enclave image without AWS's hardware, in .nox/emulator; on Debian."""
    session.run(".ci/emulator", external=True)


@nox.session
def runtime(session: nox.Session) -> None:
    """Make kernels and runtime installers from source, hold them to their pins; `-- --update`."""
    python(session, "-m", "cagebuild.renewing", MADE)


@nox.session
def pins(session: nox.Session) -> None:
    """Move the pins of toolchain, kernel and busybox to the newest, make everything, pin that."""
    python(session, "-m", "cagebuild.renewing", MADE, "--newest", "--update")


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel in dist/wheel that carries kernels and installers, so that its users make none."""
    session.run(
        *(sys.executable, "-m", "cagebuild.renewing", MADE, "--carry", "cagebuild/data/made"),
        external=True,
    )
    python(
        session,
        *("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", "dist/wheel", "."),
    )


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks at small sizes, failing above their limits."""
    python(session, "benchmarks/nothing_to_do.py", "--check", "--cages", "200", "--rounds", "5")
    python(session, "benchmarks/eif.py", "--check", "--rounds", "5")
    python(session, "benchmarks/data_plane.py", "--check", "--rounds", "5", "--seconds", "1")


@nox.session(venv_backend="virtualenv", reuse_venv=True)
def requirements(session: nox.Session) -> None:
    """Write requirements/*.txt anew; `-- --upgrade` moves them to the newest versions."""
    session.install("uv==0.13.9")
    common = (
        "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate",
        "--python-version", "3.11", "--custom-compile-command", "nox -s requirements",
    )  # fmt: skip
    sources = ("pyproject.toml", "requirements/build.in")
    session.run(*common, *session.posargs, "-o", "requirements/build.txt", *sources)
    session.run(
        *common, "--group", "dev", "--constraint", "requirements/build.txt",
        *session.posargs, "-o", "requirements/dev.txt", *sources,
    )  # fmt: skip
