"""How what is not the app's comes from source: the kernel, and the runtime installer.

Everything that a recipe reads is pinned in ``cagebuild/pins`` or lies in ``runtime``, and so are
the digests of what comes out. ``nox -s runtime`` compares the two, ``nox -s pins`` moves the first.
"""
