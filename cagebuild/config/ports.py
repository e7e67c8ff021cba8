"""Ports that are taken inside an enclave: the one list that checks and docs read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RESERVED: Mapping[int, str] = MappingProxyType(
    {
        53: "the enclave's resolver",
        9000: "the heartbeat of the enclave's init (vsock)",
        **dict.fromkeys(range(9001, 9010), "the runtime"),
    }
)
"""Port to what uses it: on loopback, and on vsock, where ingress ports have the same number.

A few more than today's runtime needs are kept back, so that a newer one breaks no cage.
"""
