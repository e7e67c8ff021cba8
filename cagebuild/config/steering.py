"""Names of variables that can be no secrets: the one list that checks and docs read.

Whoever delivers a secret must not get to choose what code the app runs, for the code is measured
and the value is not. ``schemas/settings.schema.json`` and the guest program have the same list.
"""

from __future__ import annotations

PREFIXES = ("LD_", "MALLOC_")
"""Of the dynamic linker, and of glibc's allocator."""

NAMES = (
    # What else glibc ignores in set-user-ID programs (sysdeps/generic/unsecvars.h), and musl's own.
    *("GCONV_PATH", "GETCONF_DIR", "GLIBC_TUNABLES", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH"),
    *("MUSL_LOCPATH", "NIS_PATH", "NLSPATH", "RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR"),
    # Shells, and whatever looks for programs.
    *("BASH_ENV", "ENV", "HOME", "IFS", "PATH", "SHELLOPTS"),
    # Interpreters of languages.
    *("CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"),
    *("NODE_OPTIONS", "NODE_PATH", "PERL5LIB", "PERL5OPT"),
    *("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "RUBYLIB", "RUBYOPT"),
)


def steers(name: str) -> bool:
    """Whether a variable decides what code a program loads."""
    return name in NAMES or name.startswith(PREFIXES)
