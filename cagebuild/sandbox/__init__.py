"""Programs that build something, run where nothing but what they are given can reach the result.

A job has a root filesystem, input files and an argument vector. It runs as user 1000 in that root
filesystem with a fixed environment, host name and path, without network; it reads ``/in/<name>``
and writes ``/out/<name>``, and starts in the empty folder ``/build``. Where it runs is a sandbox's
business: Docker, Podman, or namespaces that the kernel gives root or everybody.
"""

from __future__ import annotations

from cagebuild.sandbox.choice import KINDS, choose
from cagebuild.sandbox.job import Job, Sandbox

__all__ = ["KINDS", "Job", "Sandbox", "choose"]
