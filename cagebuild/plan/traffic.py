"""What goes in and out of a cage, and what it needs to run, as steps are told it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cagebuild.config.model import Cage


METADATA_VERSION = 1


def metadata(cage: Cage) -> dict[str, object]:
    """What the image file's metadata says for the program on the host, which has no cage.toml.

    It isn't measured: an enclave itself goes by its cage.json.
    """
    return {
        "version": METADATA_VERSION,
        "name": cage.name,
        "architecture": cage.enclave.architecture,
        "memory_mib": cage.enclave.memory_mib,
        "cpus": cage.enclave.cpus,
        **ways(cage),
    }


def ways(cage: Cage) -> dict[str, object]:
    """``ingress``, ``egress``, ``secrets`` and ``logs`` as cage.json has them.

    Nothing at all without a runtime, which is what would carry it.
    """
    carried = cage.runtime is not None
    return {
        "ingress": [
            {
                "port": each.port,
                "health": each.health,
                "tls": each.tls,
                "protocol": each.protocol,
                "proxy_protocol": each.proxy_protocol,
            }
            for each in (cage.ingress if carried else ())
        ],
        "egress": [
            {"host": rule.host, "port": rule.port} for rule in (cage.egress if carried else ())
        ],
        "secrets": {
            "env": list(cage.secrets.env) if carried else [],
            "files": list(cage.secrets.files) if carried else [],
        },
        "logs": cage.logs and carried,
    }
