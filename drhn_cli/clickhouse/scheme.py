"""How the URLs of tables begin: every command that takes a code file asks, and nothing else is imported for it."""

from __future__ import annotations

SERVER, EMBEDDED = "clickhouse://", "chdb:"


def is_table(target: str) -> bool:
    """Tell whether a command line's code file is a table instead."""
    return target.startswith((SERVER, EMBEDDED))
