"""Numbers, times and sizes as people read them."""

from collections.abc import Mapping


def number(name: str, value: float | None) -> str:
    """A figure as its kind is written; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if name == "MRR" else f"{value:.1f}"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def span(start: float | None, end: float | None) -> str:
    """`from 2 s to 4.5 s`; nothing where it is all of a video."""
    if (start, end) == (None, None):
        return ""
    return f"from {start or 0:g} s to {'its end' if end is None else f'{end:g} s'}"


def counted(counts: Mapping[str, int]) -> str:
    """`3 missing, 1 damaged`."""
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def several(count: int, one: str, more: str = "") -> str:
    """`1 shard`, `2 shards`; `more` where that is not `one` and an s."""
    return f"{count} {one if count == 1 else more or f'{one}s'}"


def sized(count: float) -> str:
    """Bytes as people read them: `512 B`, `3.4 MB`, `1.2 TB`."""
    value, unit = float(count), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
