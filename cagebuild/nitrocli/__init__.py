"""A second opinion: ``nitro-cli build-enclave`` in a container, on the finished image.

``opinion`` is the whole way; ``engine`` is the user's Docker, ``tool`` the image that nitro-cli is
in, ``run`` one run of it. Docker's socket, which nitro-cli cannot do without, is handed in here and
nowhere else.
"""
