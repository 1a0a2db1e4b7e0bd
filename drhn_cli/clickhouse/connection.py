"""A connection to ClickHouse, whose errors are ours."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from drhn_cli.clickhouse.folder import make_place, require_database
from drhn_cli.clickhouse.url import PASSWORD, PASSWORD_FILE, TableAddress, read_password
from drhn_cli.errors import ConfigError, TableError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_TLS_PORTS = (443, 8443)
_NO_ACCESS = {"AUTHENTICATION_FAILED", "REQUIRED_PASSWORD", "WRONG_PASSWORD", "ACCESS_DENIED"}
_VERSION = re.compile(r"\s*\(version [^()]*(\([^()]*\))?\)\s*$")


class Connection:
    """An open connection. A context manager; a process has one embedded database open at a time.

    Args:
        address: where to.
        may_create: make an embedded database where there is none.

    Attributes:
        address: where to.

    Raises:
        ConfigError: the packages that this takes are not here.
        TableError: the server cannot be reached or refuses the user; the folder holds no database, or is in use.
    """

    def __init__(self, address: TableAddress, *, may_create: bool = False) -> None:
        self.address = address
        self._may_create = may_create
        self._password = read_password() if address.folder is None else ""
        with self._errors():
            self._client = self._connect()

    def close(self) -> None:
        """Let go of the server or the folder."""
        with self._errors():
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(self, statement: str) -> list[Sequence[Any]]:
        """Return the rows of a SELECT; String columns as bytes.

        Raises:
            TableError: it failed.
        """
        with self._errors():
            # FixedString comes as bytes anyhow.
            return list(self._client.query(statement, query_formats={"String": "bytes"}).result_rows)

    def command(self, statement: str) -> None:
        """Run a statement that returns nothing.

        Raises:
            TableError: it failed.
        """
        with self._errors():
            self._client.command(statement)

    def insert(self, table: str, columns: Sequence[str], rows: bytes, settings: Mapping[str, Any]) -> None:
        """Insert rows in the RowBinary format.

        Raises:
            TableError: it failed; whether the rows have arrived is not known.
        """
        with self._errors():
            self._client.raw_insert(table, columns, rows, settings=dict(settings), fmt="RowBinary")

    def _connect(self) -> Client:
        try:
            import clickhouse_connect

            # What it logs as warnings, it raises too.
            logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
            if self.address.folder is not None:
                look_at = make_place if self._may_create else require_database
                look_at(self.address.folder, str(self.address))
                return clickhouse_connect.get_client(
                    interface="chdb", path=self.address.folder, database=self.address.database
                )
        except ImportError as error:
            hint = "install them: pip install 'drhn[clickhouse]'"
            raise ConfigError("tables need packages that are not here", found=error.name, hint=hint) from error
        return clickhouse_connect.get_client(
            host=self.address.host,
            port=self.address.port,
            interface="https" if self.address.port in _TLS_PORTS else "http",
            username=self.address.user,
            password=self._password,
            database=self.address.database,
            # Without a session a statement may be sent again to another node; and sessions allow one at a time.
            autogenerate_session_id=False,
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the driver raises into a TableError of one line without the password."""
        try:
            yield
        except Exception as error:
            drivers = ("clickhouse_connect", "urllib3", "chdb")
            if type(error).__module__.partition(".")[0] not in drivers and not isinstance(error, OSError):
                raise
            name = getattr(error, "name", None)
            problem, hint = "ClickHouse refuses", None
            text, *_ = str(error).partition(", Stack trace")
            failure = _failure_of_the_network(error) if self.address.folder is None else None
            if failure is not None:
                problem, hint = "ClickHouse cannot be reached", "see whether host and port are right, and it runs"
                text = failure.strerror or str(failure)
            elif name in _NO_ACCESS:
                hint = f"the password is that of ${PASSWORD} or of the file that ${PASSWORD_FILE} names"
            elif self.address.folder is not None and name is None and "filesystem error" not in text:
                hint = "perhaps another process has the folder open"
            text = " ".join(_VERSION.sub("", text).split())
            if self._password:
                text = text.replace(self._password, "***")
            # From None: the original may hold the password.
            raise TableError(problem, path=str(self.address), found=text, hint=hint) from None


def _failure_of_the_network(error: BaseException) -> OSError | None:
    """Return what the system said of a server that nobody reached: the driver's own text wraps it three times."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, OSError):
        inner = inner.__cause__ or inner.__context__
    return inner
