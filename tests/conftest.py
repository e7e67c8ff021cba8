"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell starts background jobs with SIGINT ignored, and every child inherits that. Tests that
# interrupt a program want it as a terminal starts it.
signal.signal(signal.SIGINT, signal.default_int_handler)
