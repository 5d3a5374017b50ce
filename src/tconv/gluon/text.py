"""Small pieces of text that the printed forms and messages of gluon share."""

from __future__ import annotations

from collections.abc import Iterable


def indent(text: str, spaces: int = 2) -> str:
    """Return `text` with all lines but the first moved right."""
    return text.replace("\n", "\n" + " " * spaces)


def brief(names: Iterable[str], limit: int = 7) -> str:
    """Return names as a list, its middle left out where there are more than `limit`."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > limit:
        half = limit // 2
        quoted = [*quoted[:half], "...", *quoted[-half:]]
    return ", ".join(quoted)
