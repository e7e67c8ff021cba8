"""Once a day: what happened, to whoever is on duty."""

import time
from datetime import UTC, datetime

from mailer import send

DAY = 24 * 60 * 60

if __name__ == "__main__":
    while True:
        send("duty@example.com", f"Digest of {datetime.now(UTC):%Y-%m-%d}", "All is well.\n")
        time.sleep(DAY)
