"""ClickHouse servers on the loopback device, the real thing: ``clickhouse local`` listens by HTTP and for other nodes.

It is in chDB's library for Node.js (the one for Python does not let it be called):

    npm install @chdb/lib-linux-x64-gnu@26.7.3-stable.1
    DRHN_TEST_LIBCHDB=node_modules/@chdb/lib-linux-x64-gnu/libchdb.so python -m pytest

It has no Keeper, refuses ON CLUSTER, and listens to no other replicas: with a ZooKeeper beside it replicated tables can
be made, but stay read-only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import CHECKOUT

LIBRARY = "DRHN_TEST_LIBCHDB"
USER = "me"
_ALL = "<networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>"
_CONFIG = """\
<clickhouse>
    <listen_host>127.0.0.1</listen_host> <http_port>{http}</http_port> <tcp_port>{tcp}</tcp_port>
    <path>{folder}/data</path> <users_config>{folder}/users.xml</users_config>
    <remote_servers><big>{shards}</big></remote_servers>
</clickhouse>
"""
_SHARD = """
<shard><internal_replication>true</internal_replication><replica>
    <host>127.0.0.1</host> <port>{tcp}</port> <user>{user}</user> <password>{password}</password>
</replica></shard>"""
_USERS = """\
<clickhouse>
    <profiles><default/></profiles> <quotas><default/></quotas>
    <users><default><no_password/>{all}</default> <{user}><password>{password}</password>{all}</{user}></users>
</clickhouse>
"""
_SERVE = """\
SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP;
SELECT sleepEachRow(1) FROM system.numbers SETTINGS max_block_size = 1 FORMAT Null
"""


@contextlib.contextmanager
def start_nodes(folder: Path, password: str, *, count: int = 1) -> Iterator[list[tuple[int, int]]]:
    """Start the nodes of a cluster, ``big``, each of which is a shard; yield their ports, HTTP and TCP."""
    ports = [(_free_port(), _free_port()) for _ in range(count)]
    shards = "".join(_SHARD.format(tcp=tcp, user=USER, password=password) for _, tcp in ports)
    with contextlib.ExitStack() as stack:
        for number, (http, tcp) in enumerate(ports):
            place = folder / f"node-{number}"
            place.mkdir()
            (place / "config.xml").write_text(_CONFIG.format(http=http, tcp=tcp, folder=place, shards=shards))
            (place / "users.xml").write_text(_USERS.format(user=USER, password=password, all=_ALL))
            command = [sys.executable, "-m", "tests.clickhouse_node", os.environ[LIBRARY], str(place)]
            node = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=CHECKOUT))
            stack.callback(node.stdin.close)  # before it is waited for
            _wait_for(node, http)
        yield ports


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_for(node: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + 120
    while node.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=60):
            return
        time.sleep(0.1)
    raise RuntimeError("the node does not answer")


def main() -> None:
    """Be a node until stdin ends."""
    library, folder = sys.argv[1:]
    run = ctypes.CDLL(library).chdb_query_cmdline
    words = ["clickhouse", f"--config-file={folder}/config.xml", f"--path={folder}/data", f"--query={_SERVE}"]
    arguments = (ctypes.c_char_p * len(words))(*map(os.fsencode, words))
    threading.Thread(target=run, args=(len(words), arguments), daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # it cannot be told to stop


if __name__ == "__main__":
    main()
