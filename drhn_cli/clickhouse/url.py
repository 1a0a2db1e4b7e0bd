"""Addresses of tables: ``clickhouse://user@host:8123/database.table``, or ``chdb:./folder`` for an embedded database.

Every command that takes a code file calls ``is_table``, so this module imports no sibling module.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self

from drhn_cli.errors import ConfigError, DrhnError

SERVER, EMBEDDED = "clickhouse://", "chdb:"
PASSWORD = "CLICKHOUSE_PASSWORD"  # noqa: S105 - the variable's name
PASSWORD_FILE = "CLICKHOUSE_PASSWORD_FILE"  # noqa: S105

_FORMS = "clickhouse://user@host:8123/database.table or chdb:./folder"
_WITH_PASSWORD = re.compile(r"[^@]*//[^@]*:.*@", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_table(target: str) -> bool:
    """Return whether an argument is the URL of a table and not a code file."""
    return target.startswith((SERVER, EMBEDDED))


@dataclass(frozen=True, kw_only=True)
class TableAddress:
    """Where a table is. Its text is the URL, which never contains a password.

    Attributes:
        folder: of an embedded database; None for a server.
        host, port, user: of a server; ports 443 and 8443 mean TLS.
        database, table: names of letters, digits and underscores.
    """

    folder: str | None = None
    host: str = "localhost"
    port: int = 8123
    user: str = "default"
    database: str = "default"
    table: str = "codes"

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL.

        Raises:
            ConfigError: not a table's URL, or one with a password, which the message does not repeat.
        """
        if url.startswith(EMBEDDED):
            folder = url.removeprefix(EMBEDDED)
            if not folder:
                raise ConfigError("no folder for the embedded database", expected=_FORMS, found=url)
            return cls(folder=folder)
        if _WITH_PASSWORD.match(url):
            hint = f"leave it out, and put it in ${PASSWORD} or in a file that ${PASSWORD_FILE} names"
            raise ConfigError("a password in a URL is seen by everyone on the machine", hint=hint)
        from urllib.parse import unquote, urlsplit  # takes time to import, and few commands use a table

        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise ConfigError("not the URL of a table", expected=_FORMS) from error
        database, dot, table = parts.path.removeprefix("/").partition(".")
        if not dot:
            database, table = cls.database, database
        if not (host and url.startswith(SERVER) and _NAME.fullmatch(database) and _NAME.fullmatch(table)):
            raise ConfigError("not the URL of a table", expected=_FORMS, found=url)
        if parts.query or parts.fragment:
            raise ConfigError("a table's URL has no ? and no #", expected=_FORMS, found=url)
        user = unquote(parts.username) if parts.username else cls.user
        return cls(host=host, port=port or cls.port, user=user, database=database, table=table)

    def __str__(self) -> str:
        if self.folder is not None:
            return f"{EMBEDDED}{self.folder}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SERVER}{self.user}@{host}:{self.port}/{self.database}.{self.table}"


def read_password() -> str:
    """Return the password from the environment, or from the file that it names; empty if there is none."""
    path = os.environ.get(PASSWORD_FILE)
    if path is None:
        return os.environ.get(PASSWORD, "")
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise DrhnError(f"cannot read the password file of ${PASSWORD_FILE}", path=path, found=found) from error
