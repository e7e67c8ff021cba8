"""cagebuild: reproducible builds of AWS Nitro Enclaves, measured, pinned and explained."""

__version__ = "0.1.0"
