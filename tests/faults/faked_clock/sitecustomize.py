"""For processes under libfaketime that are to keep their monotonic clock: its sleep until a moment
of that clock, which Python's is, fails there (seen with 0.9.10). This one sleeps for a while."""

import select
import time


def sleep(seconds: float) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


time.sleep = sleep
