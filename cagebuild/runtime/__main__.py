"""``python -m cagebuild.runtime WORK [--update]``: the installers, compared with their pins."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cagebuild.errors import CageError
from cagebuild.runtime.renew import check_pins


def main() -> int:
    """Print what moved; 0 when nothing did, or when the pins were moved along."""
    parser = argparse.ArgumentParser(prog="python -m cagebuild.runtime", description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for toolchain, cache and results")
    parser.add_argument("--update", action="store_true", help="move the pins")
    given = parser.parse_args()
    try:
        lines = check_pins(given.work.absolute(), update=given.update)
    except CageError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print("\n".join(lines) or "the runtime installers are as pinned")
    return 1 if lines and not given.update else 0


if __name__ == "__main__":
    sys.exit(main())
