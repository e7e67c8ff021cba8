"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# Data, one of it a symlink to its own parent.
collect_ignore = ["golden", "invalid"]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell starts background jobs with SIGINT ignored, and every child inherits that. Tests that
# interrupt a program want it as a terminal starts it.
signal.signal(signal.SIGINT, signal.default_int_handler)
