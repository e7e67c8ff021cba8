"""AWS's kernel command lines. Source: aws/aws-nitro-enclaves-cli, blobs/<arch>/cmdline."""

from __future__ import annotations

from typing import Final

CMDLINE: Final = {
    "x86_64": (
        "reboot=k panic=30 pci=off nomodules console=ttyS0"
        " i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd random.trust_cpu=on"
    ),
    "aarch64": (
        "reboot=k panic=30 pci=off nomodules console=ttyS0 random.trust_cpu=on root=/dev/ram0"
    ),
}
