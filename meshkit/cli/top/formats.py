"""Numbers in few characters, so that columns need not move."""

from __future__ import annotations


def rate(value: float | None) -> str:
    """A number a second in at most 6 characters."""
    if value is None:
        return "-"
    if value < 0.005:
        return "0"
    if value < 0.995:
        return f"{value:.2f}".rstrip("0")
    if value < 99.95:
        return f"{value:.1f}"
    if value < 99_999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k" if value < 999_500 else f"{value / 1e6:.0f}M"


def duration(seconds: float | None) -> str:
    """A length of time in at most 7 characters."""
    if seconds is None:
        return "-"
    if seconds < 0.00995:
        return f"{1000 * seconds:.2f} ms"
    if seconds < 0.09995:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return span(seconds)


def span(seconds: float) -> str:
    """A long time in at most 6 characters: `45 s`, `12m05s`, `3h20m`, `12d04h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{second:02}s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minute:02}m"
    days, hour = divmod(hours, 24)
    return f"{days}d{hour:02}h"


def percent(share: float) -> str:
    """A share in at most 4 characters; what is not nothing does not look like it."""
    if share < 0.0005:
        return "<0.1" if share else "0"
    return f"{100 * share:.1f}" if share < 0.9995 else "100"
