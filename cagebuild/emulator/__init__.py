"""An enclave without AWS's hardware: what QEMU's machine `nitro-enclave` needs beside it.

``python -m cagebuild.emulator --device SOCKET --vsock PATH`` is the machine's vsock, seen from a
parent whose CID is 3 as on Nitro. Streams look as behind Firecracker: the host opens one to port 17
of the guest by connecting to the unix socket PATH and sending "CONNECT 17\\n", the answer begins
with "OK "; the guest's own streams to port 17 come to the unix socket PATH_17.

- ``vhost``: the protocol between QEMU and a device in another process, and the queues in the
  machine's memory.
- ``vsock``: packets and streams.

There is such a program in Rust, vhost-device-vsock. It answers for no parent but CID 2, ends both
directions of a stream when one ends, and loses what a Linux guest sends in pieces above 32 KiB.
"""
