"""Building a Dockerfile without RUN in this process."""

from __future__ import annotations

from cagebuild.embedded.build import Base, Built, build

__all__ = ["Base", "Built", "build"]
