"""A stand-in for a ClickHouse server: its HTTP interface, as far as clickhouse-connect needs it, before chDB.

    python -m tests.clickhouse_server FOLDER PASSWORD

Prints its port and serves on the loopback device, one statement at a time, until its stdin ends. The statements are
ClickHouse's own work; what this cannot show is how a server or a cluster of them behaves.
"""

from __future__ import annotations

import base64
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import chdb

_INSERT = re.compile(rb"\s*(INSERT INTO [^\n]*?)\s+FORMAT (\w+)\n")
# What every client asks first; the engine answers it once.
_GREETING = re.compile(r"SELECT (version\(\)|name, value, readonly FROM system\.settings|1 AS check)")
_SETTINGS = re.compile(r"insert_|async_insert|distributed_|max_insert_|min_insert_")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two packets, and the second would wait 40 ms for a receipt

    def do_POST(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query))
        body = self._body()
        user = base64.b64decode(self.headers.get("Authorization", "Basic ").split()[-1]).decode()
        if user != f"me:{self.server.password}":
            message = (
                "Code: 516. DB::Exception: me: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"
            )
            self._answer(403, message.encode(), code=516)
            return
        try:
            with self.server.lock:
                result = self._run(parameters, body)
            self._answer(200, result, form="Native")
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(500, str(error).encode(), code=int(code[1]) if code else 1)

    do_GET = do_POST  # noqa: N815

    def _run(self, parameters: dict[str, str], body: bytes) -> bytes:
        insert = _INSERT.match(body)
        if insert:
            Path(self.server.spool).write_bytes(body[insert.end() :])
            settings = ", ".join(f"{name} = '{value}'" for name, value in parameters.items() if _SETTINGS.match(name))
            clause = f" SETTINGS {settings}" if settings else ""
            into, form = insert[1].decode(), insert[2].decode()
            statement, form = f"{into} FROM INFILE '{self.server.spool}'{clause} FORMAT {form}", ""
        else:
            statement, _, form = (parameters.get("query") or body.decode()).partition("\n FORMAT ")
        form = form or "TabSeparated"
        if not _GREETING.match(statement):
            return self._query(statement, form)
        if (statement, form) not in self.server.greetings:
            self.server.greetings[statement, form] = self._query(statement, form)
        return self.server.greetings[statement, form]

    def _query(self, statement: str, form: str) -> bytes:
        return self.server.connection.query(statement, form).bytes() or b""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, body: bytes, *, form: str = "", code: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if form:
            self.send_header("X-ClickHouse-Format", form)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    folder, password = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.password = password
    server.lock = threading.Lock()
    server.greetings = {}
    server.spool = f"{folder}.rows"
    server.connection = chdb.connect(folder)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
