"""Named points of a process's way at which a test can make it die, stop or fail. Nothing but a test sets `hook`."""

from collections.abc import Callable

hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Pass a point: `plan`, `decode`, `embed`, `commit <stage>`, `before <file>` or `after <file>` (takes its name)."""
    if hook is not None:
        hook(name)
