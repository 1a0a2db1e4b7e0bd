"""The address of a table, and a connection to ClickHouse or its embedded engine, with errors of one line.

An address is ``clickhouse://user@host:8123/database.table``, or ``chdb:./folder`` for an embedded database. Every
command that takes a code file calls ``is_table``, so this module imports little.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from drhn_cli.errors import ConfigError, DrhnError, TableError, about
from drhn_cli.files import os_errors

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

SERVER, EMBEDDED = "clickhouse://", "chdb:"
PASSWORD = "CLICKHOUSE_PASSWORD"  # noqa: S105 - the variable's name
PASSWORD_FILE = "CLICKHOUSE_PASSWORD_FILE"  # noqa: S105
_FORMS = "clickhouse://user@host:8123/database.table or chdb:./folder"
_WITH_PASSWORD = re.compile(r"[^@]*//[^@]*:.*@", re.DOTALL)
_PATH = re.compile(r"/(?:([A-Za-z_][A-Za-z0-9_]*)\.)?([A-Za-z_][A-Za-z0-9_]*)")
PUSH_HINT = "load one with drhn push CODES URL"

_NO_ACCESS = {"AUTHENTICATION_FAILED", "REQUIRED_PASSWORD", "WRONG_PASSWORD", "ACCESS_DENIED"}
_STARTED = {"tmp", "status"}  # what the embedded engine makes first; "metadata" comes with the first table
_ELSEWHERE = "name a folder where files can be made"
_VERSION = re.compile(r"\s*\(version [^()]*(\([^()]*\))?\)\s*$")


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
            if url == EMBEDDED:
                raise ConfigError("no folder for the embedded database", expected=_FORMS, found=url)
            return cls(folder=url.removeprefix(EMBEDDED))
        if _WITH_PASSWORD.match(url):
            hint = f"leave it out, and put it in ${PASSWORD} or in a file that ${PASSWORD_FILE} names"
            raise ConfigError("a password in a URL is seen by everyone on the machine", hint=hint)
        from urllib.parse import unquote, urlsplit  # takes time to import, and few commands use a table

        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise ConfigError("not the URL of a table", expected=_FORMS) from error
        names = _PATH.fullmatch(parts.path)
        if not (host and url.startswith(SERVER) and names):
            raise ConfigError("not the URL of a table", expected=_FORMS, found=url)
        if parts.query or parts.fragment:
            raise ConfigError("a table's URL has no ? and no #", expected=_FORMS, found=url)
        user = unquote(parts.username) if parts.username else cls.user
        return cls(host=host, port=port or cls.port, user=user, database=names[1] or cls.database, table=names[2])

    def __str__(self) -> str:
        if self.folder is not None:
            return f"{EMBEDDED}{self.folder}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SERVER}{self.user}@{host}:{self.port}/{self.database}.{self.table}"


class Connection(AbstractContextManager["Connection"]):
    """An open connection; a context manager. A process can have one embedded database open at a time.

    ``may_create`` makes an embedded database if there is none.

    Raises:
        ConfigError: packages are missing.
        TableError: the server cannot be reached or refuses the user; the folder holds no database, or is in use.
    """

    def __init__(self, address: TableAddress, *, may_create: bool = False) -> None:
        self.address = address
        self._password = _read_password() if address.folder is None else ""
        with self._errors():
            self._client = self._connect(may_create)

    def __exit__(self, *_: object) -> None:
        with self._errors():
            self._client.close()

    def query(self, statement: str) -> list[Sequence[Any]]:
        """Return the rows of a SELECT, with String and FixedString columns as bytes."""
        with self._errors():
            return list(self._client.query(statement, query_formats={"String": "bytes"}).result_rows)

    def command(self, statement: str) -> None:
        """Run a statement that returns nothing."""
        with self._errors():
            self._client.command(statement)

    def insert(self, table: str, columns: Sequence[str], rows: bytes, settings: dict[str, Any]) -> None:
        """Insert rows in the RowBinary format. After an error they may have arrived or not."""
        with self._errors():
            self._client.raw_insert(table, columns, rows, settings=settings, fmt="RowBinary")

    def _connect(self, may_create: bool) -> Client:
        address = self.address
        try:
            import logging

            import clickhouse_connect

            # It logs nothing that it does not raise too.
            logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
            if address.folder is not None:
                with about(str(address)):
                    (_make_folder if may_create else _require_database)(address.folder)
                return clickhouse_connect.get_client(interface="chdb", path=address.folder, database=address.database)
        except ImportError as error:
            hint = "install them: pip install 'drhn[clickhouse]'"
            raise ConfigError("tables need packages that are not here", found=error.name, hint=hint) from error
        return clickhouse_connect.get_client(
            host=address.host,
            port=address.port,  # on 443 and 8443 the driver speaks HTTPS
            username=address.user,
            password=self._password,
            database=address.database,
            # Statements of a session run one at a time, and cannot be retried on another node.
            autogenerate_session_id=False,
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate errors of the driver to a ``TableError`` of one line, without the password."""
        try:
            yield
        except Exception as error:
            drivers = ("clickhouse_connect", "urllib3", "chdb")
            if type(error).__module__.partition(".")[0] not in drivers and not isinstance(error, OSError):
                raise
            # From None, because the original may contain the password.
            raise self._table_error(error) from None

    def _table_error(self, error: Exception) -> TableError:
        name = getattr(error, "name", None)
        problem, hint = "ClickHouse refuses", None
        text, *_ = str(error).partition(", Stack trace")
        if self.address.folder is None and (os_error := _find_os_error(error)):
            problem, hint = "ClickHouse cannot be reached", "see whether host and port are right, and it runs"
            text = os_error.strerror or str(os_error)
        elif name in _NO_ACCESS:
            hint = f"the password is that of ${PASSWORD} or of the file that ${PASSWORD_FILE} names"
        elif self.address.folder is not None and name is None and "filesystem error" not in text:
            hint = "perhaps another process has the folder open"
        text = " ".join(_VERSION.sub("", text).split())
        if self._password:
            text = text.replace(self._password, "***")
        return TableError(problem, path=str(self.address), found=text, hint=hint)


def _find_os_error(error: BaseException | None) -> OSError | None:
    """Return the system's error that the driver has wrapped several times, or None."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _require_database(folder: str) -> None:
    """Refuse a folder that holds no database, where the engine would make one."""
    if not os.path.isdir(folder):
        found = "no folder but a file" if os.path.lexists(folder) else "no folder of that name"
    elif _holds_database(os.listdir(folder)):
        return
    else:
        found = "a folder without a database"
    raise TableError("no such table", found=found, hint=PUSH_HINT)


def _make_folder(folder: str) -> None:
    """Make the folder of a database if there is none; refuse a folder with other files in it."""
    problem = "no place for a database"
    with os_errors(TableError, problem, path=None, hint=_ELSEWHERE):
        os.makedirs(folder, exist_ok=True)
        names = os.listdir(folder)
    if not _holds_database(names) and not _STARTED.issuperset(names):
        expected, hint = "a database, or an empty folder", "name a folder of its own"
        raise TableError(problem, expected=expected, found="other files", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TableError(problem, found="a folder that may not be written", hint=_ELSEWHERE)


def _holds_database(names: Collection[str]) -> bool:
    return "metadata" in names or _STARTED.issubset(names)


def _read_password() -> str:
    """Return the password from the environment, or from the file that it names; empty if there is none."""
    path = os.environ.get(PASSWORD_FILE)
    if path is None:
        return os.environ.get(PASSWORD, "")
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "bytes that are not UTF-8"
        raise DrhnError(f"cannot read the password file of ${PASSWORD_FILE}", path=path, found=found) from error
