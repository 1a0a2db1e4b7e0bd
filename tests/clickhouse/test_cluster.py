"""A table over two shards: the statements of the room's README on two nodes, but for what takes Keeper."""

import os
import re
from dataclasses import replace

import pytest

from drhn_cli.clickhouse import push as load
from drhn_cli.clickhouse.connection import PASSWORD, Connection, TableAddress
from drhn_cli.clickhouse.schema import quote_bytes
from drhn_cli.codes.reader import CodeFile
from drhn_cli.collection.merge import merge_codes
from tests.clickhouse.test_table import SECRET, ask, count_rows, open_table, push, write
from tests.clickhouse_node import LIBRARY, USER, start_nodes
from tests.conftest import CHECKOUT

ON_CLUSTER = re.compile(r" ON CLUSTER '?big'?")
REPLICATED = re.compile(r"Replicated(\w+)\('[^']*', '[^']*'(?:, )?([^)]*)\)")


def parse(connection, statement):
    """Have the server read a statement as it stands, which it would refuse to run."""
    connection.query(f"SELECT formatQuery({quote_bytes(statement.encode())})")


def without_keeper(statement):
    statement = REPLICATED.sub(r"\1(\2)", ON_CLUSTER.sub("", statement))
    return statement.replace("replicated_dedup", "non_replicated_dedup")


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The table as each of two nodes has it."""
    if LIBRARY not in os.environ:
        pytest.skip(f"${LIBRARY} names no ClickHouse")
    monkeypatch.setenv(PASSWORD, SECRET)
    (block,) = re.findall(r"```sql\n(.*?)```", (CHECKOUT / "drhn_cli/clickhouse/README.md").read_text(), re.DOTALL)
    command = Connection.command

    def on_all(self, statement):
        parse(self, statement)
        for address in nodes if ON_CLUSTER.search(statement) else [self.address]:
            with Connection(address) as connection:
                command(connection, ON_CLUSTER.sub("", statement))

    with start_nodes(tmp_path, SECRET, count=2) as ports:
        nodes = [TableAddress(host="127.0.0.1", port=http, user=USER) for http, _ in ports]
        for number, node in enumerate(nodes):
            with Connection(node) as connection:
                for statement in re.sub(r"--.*", "", block).split(";")[:-1]:
                    parse(connection, statement)
                    connection.command(without_keeper(statement))
                if number:
                    connection.command("DROP TABLE photos.codes_files")
                    first = f"remote('127.0.0.1:{ports[0][1]}', photos.codes_files, '{USER}', '{SECRET}')"
                    connection.command(f"CREATE TABLE photos.codes_files AS {first}")  # instead of a replica
        nodes = [replace(node, database="photos") for node in nodes]
        monkeypatch.setattr(Connection, "command", on_all)
        yield nodes


def test_every_node_answers_as_the_code_file_does(nodes, tmp_path, monkeypatch):
    insert, merged = Connection.insert, tmp_path / "merged"

    def twice(self, *arguments):
        insert(self, *arguments)
        insert(self, *arguments)

    monkeypatch.setattr(Connection, "insert", twice)
    monkeypatch.setattr(load, "SLICE_ROWS", 30_000)
    one = write(tmp_path / "one", {b"%05d" % i: i * 37 % 64 for i in range(40_000)}, root="/photos/one")
    two = tmp_path / "two"
    for node, version in ((0, range(20_000)), (1, range(500, 9_000))):
        push(one, nodes[node], b"one")
        summary = push(write(two, {b"%05d" % i: i % 7 for i in version}, root="/photos/two"), nodes[node], b"two")
        assert (summary.n_sent, summary.n_table) == (len(version), 40_000 + len(version))
        merge_codes([one, two], merged)
        for address in nodes:
            local = [count_rows(replace(address, table="codes_local")) for address in nodes]
            assert sum(local) == summary.n_table
            assert min(local) > 8_000
            with CodeFile.open(merged) as file, open_table(address) as table:
                table.verify()
                for options in ({"top_k": 1500}, {"max_distance": 1, "top_k": None}, {"under": ["/photos/two"]}):
                    assert ask(table, 48, [0, 63], **options) == ask(file, 48, [0, 63], **options)
