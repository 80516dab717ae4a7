"""Numbers as people read them: one unit each, a true minus, as many digits as matter."""

import math
from datetime import datetime

from django.utils import timezone

MINUS, NARROW_SPACE = "\u2212", "\u202f"
LARGEST = 1e9  # as which workers keep what is infinite, for JSON cannot say it


def signed(value: float, digits: int = 2) -> str:
    """+0.52, −0.08, 0.00 (a zero has no sign)."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return (MINUS if value < 0 else "+") + text


def number(value: float, digits: int = 2) -> str:
    """0.42, −1.30; a true minus."""
    if math.isnan(value):
        return "not a number"
    if abs(value) >= LARGEST:
        return "∞" if value > 0 else MINUS + "∞"
    text = f"{abs(value):.{digits}f}"
    return MINUS + text if value < 0 and float(text) else text


def count(value: int) -> str:
    """34, 1.2k, 3.4M: for marks in a list, where the size matters and the digits do not."""
    for limit, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.1f}{unit}" if scaled < 9.95 else f"{scaled:.0f}{unit}"
    return str(value)


def grouped(value: int) -> str:
    """12 480, with narrow spaces."""
    return f"{value:,}".replace(",", NARROW_SPACE)


def size(value: int) -> str:
    """118 kB, 3.4 MB: powers of ten, as files are sold and as the Hub shows them."""
    if value < 1000:
        return f"{value} B"
    power, units = 1, ("kB", "MB", "GB", "TB")
    while value >= 999.5 * 1000**power and power < len(units):
        power += 1
    scaled = value / 1000**power
    text = f"{scaled:.1f}" if scaled < 9.95 else f"{scaled:.0f}"
    return f"{text} {units[power - 1]}"


def percent(value: float, digits: int = 0) -> str:
    return f"{number(value * 100, digits)} %"


def duration(seconds: float) -> str:
    """8 s, 3 min, 1 h 20 min."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} days"


def ago(when: datetime, now: datetime | None = None) -> str:
    """just now, 5 minutes ago, yesterday, 12 March 2026."""
    now = now or timezone.now()
    seconds = (now - when).total_seconds()
    if seconds < 45:
        return "just now"
    for limit, length, unit in (
        (45 * 60, 60, "minute"),
        (22 * 3600, 3600, "hour"),
        (26 * 86400, 86400, "day"),
    ):
        if seconds < limit:
            many = max(1, round(seconds / length))
            if unit == "day" and many == 1:
                return "yesterday"
            return f"{many} {unit}{'' if many == 1 else 's'} ago"
    return f"{when.day} {when:%B %Y}"
