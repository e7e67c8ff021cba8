"""The data plane over vsock: a cage as an image file, in the emulated enclave.

The runtime is the installer's, and boots as in an enclave of AWS's; the app is the tests' own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cagebuild.nitro import cpio, eif, metadata, ramdisk
from cagebuild.nitro.cmdline import CMDLINE
from cagebuild.nitro.container import create_container
from cagebuild.runtime import host_architecture
from cagebuild.runtime.installer import split_installer
from tests.support import emulator, made
from tests.support.data_plane import Cage, Programs, Wanted
from tests.support.nitro import EPOCH, directory, file, symlink, tree
from tests.support.runtime import install_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from cagebuild.image.tree import Node
    from cagebuild.nitro.pcr import Measured

PARENT_PORT = 10_000 + emulator.GUEST_CID
"""Of the parent's vsock, where the guest's own streams arrive."""


def node(path: Path) -> Node:
    """A file, folder or symlink as it is on disk."""
    if path.is_symlink():
        return symlink(str(path.readlink()).encode())
    if path.is_dir():
        return directory({child.name.encode(): node(child) for child in sorted(path.iterdir())})
    return file(path.read_bytes(), mode=path.stat().st_mode & 0o777)


def write_enclave(folder: Path, target: Path, programs: Programs, wanted: Wanted) -> Measured:
    """An image file that boots the runtime with the app, and what it measures."""
    root, init = folder / "root", folder / "init"
    root.mkdir()
    install_runtime(root)
    split_installer(made.installer(host_architecture()), folder / "layer.tar", init)
    (root / "cage/etc").mkdir(exist_ok=True)
    (root / "cage/etc/cage.json").write_bytes(wanted.cage_json())
    (root / "app").write_bytes(programs.app.read_bytes())
    (root / "app").chmod(0o755)
    image = tree({child.name.encode(): node(child) for child in sorted(root.iterdir())})
    create_container(image, workdir="/", epoch=EPOCH)
    command = ["/cage/bin/cage-guest", "boot"]
    entries = ramdisk.image_entries(image, cmd=command, env=[], warnings=ramdisk.Warnings())
    identity = metadata.Identity(
        name="pay", version="1", epoch=EPOCH, custom={"cagebuild": wanted.metadata()}
    )
    contents = eif.Contents(
        architecture="x86_64",
        kernel=made.kernel("x86_64"),
        cmdline=CMDLINE["x86_64"].encode(),
        metadata=metadata.metadata_json(identity),
        boot_ramdisk=cpio.pack(ramdisk.boot_entries(file(init.read_bytes(), mode=0o755), None)),
        image_ramdisk=cpio.pack(entries),
        epoch=EPOCH,
    )
    return eif.write(contents, target)


class EnclaveCage(Cage):
    """A cage whose inside is a machine of its own. The host is where it always is."""

    def __init__(self, folder: Path, programs: Programs, wanted: Wanted) -> None:
        super().__init__(folder, programs, wanted, "vsock")
        try:
            self.measured = write_enclave(folder, self.shared / "cage.eif", programs, wanted)
        except BaseException:
            self.close()
            raise

    @property
    def guest_url(self) -> str:
        """Where the guest listens."""
        return f"hybrid://{self.shared}/vm:9001"

    @property
    def host_url(self) -> str:
        """Where the host listens for its guest."""
        return f"hybrid://{self.shared}/vm:{PARENT_PORT}"

    @property
    def at(self) -> tuple[str, str]:
        """Words that tell cage-host's commands which enclave is meant."""
        return "--guest", self.guest_url

    def operate(self, command: str, *words: str) -> str:
        """Run one of cage-host's commands for this enclave, and return what it says."""
        # The second word of a command goes before its flags.
        more, rest = (words[:1], words[1:]) if command == "secrets" else ((), words)
        return self.outside.output("/cage-host", command, *more, *self.at, *rest)

    def boot(self) -> None:
        """Boot the enclave. Its host has to be there, or come."""
        image, vsock = self.shared / "cage.eif", self.shared / "vm"
        self.machine = self._ends.enter_context(emulator.boot(image, vsock))

    def start(self) -> None:
        """Start the host, boot the enclave, and return when a connection goes through."""
        self.start_host()
        self.boot()
        self.machine.until("^app: ready$")
        self.await_web()
