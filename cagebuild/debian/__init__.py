"""Debian packages without apt, dpkg or root: verified indexes, dependency closures, one layer."""
