"""Tables of codes: in chDB, behind HTTP, and on a server where the environment names one."""

import json
import os
import re
import secrets
import struct
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drhn_cli.clickhouse import push as load
from drhn_cli.clickhouse.connection import PASSWORD, PASSWORD_FILE, Connection, TableAddress, is_table
from drhn_cli.clickhouse.push import load_codes
from drhn_cli.clickhouse.schema import Schema, pack_rows, pack_string
from drhn_cli.clickhouse.table import CodeTable
from drhn_cli.codes.entries import Entry
from drhn_cli.codes.manifest import CodeManifest
from drhn_cli.codes.pack import format_hex, pack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection.merge import merge_codes
from drhn_cli.errors import ConfigError, DrhnError, TableError
from drhn_cli.files import FileStamp
from drhn_cli.progress import SILENT
from drhn_cli.retrieval.gallery import FileGallery, TableGallery
from drhn_cli.retrieval.query import Query, QueryOptions, answer_queries
from tests.clickhouse_node import LIBRARY, USER, start_nodes
from tests.conftest import CHECKOUT
from tests.entries import entries_of

SERVER = "DRHN_TEST_CLICKHOUSE_URL"
SECRET = "open sesame"  # noqa: S105
NUMBERS = count()


@pytest.fixture(scope="module", params=["embedded", "over HTTP", "server"])
def database(request, tmp_path_factory):
    """A place for tables."""
    folder = tmp_path_factory.mktemp("clickhouse")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "server":
            if SERVER in os.environ:
                yield TableAddress.parse(os.environ[SERVER])
                return
            if LIBRARY not in os.environ:
                pytest.skip(f"neither ${SERVER} nor ${LIBRARY} names a server")
            patch.setenv(PASSWORD, SECRET)
            with start_nodes(folder, SECRET) as ((port, _),):
                yield TableAddress(host="127.0.0.1", port=port, user=USER)
        elif request.param == "embedded":
            address = TableAddress(folder=str(folder / "embedded"))
            with Connection(address, may_create=True):  # the engine stays up between tests
                yield address
        else:
            patch.setenv(PASSWORD, SECRET)
            command = [sys.executable, "-m", "tests.clickhouse_server", str(folder / "served"), SECRET]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT) as server:
                yield TableAddress(host="127.0.0.1", port=int(server.stdout.readline()), user="me")
                server.stdin.close()


@pytest.fixture(scope="module")
def drop(database):
    """Drop a table, if it is there."""
    with Connection(database) as connection:

        def call(address):
            for name in (address.table, f"{address.table}_files"):
                connection.command(f"DROP TABLE IF EXISTS `{address.database}`.`{name}`")

        yield call


@pytest.fixture
def address(database, drop):
    """A table that is not there yet."""
    table = f"{database.table}_{secrets.token_hex(4)}_{next(NUMBERS)}"
    address = replace(database, table=table)
    yield address
    drop(address)


def write(path, rows, *, n_bits=48, root="/photos", fingerprint="f" * 64, model="fast"):
    """Write a code file of paths and codes of so many bits as integers."""
    rows = dict(sorted(rows.items()))
    size = (n_bits + 7) // 8
    codes = np.frombuffer(b"".join(code.to_bytes(size, "little") for code in rows.values()), np.uint8)
    sizes = [7 * code % 1000 for code in rows.values()]
    entries = entries_of(list(rows), sizes, [-each for each in sizes], range(len(rows)))
    manifest = CodeManifest(root=root, n_bits=n_bits, model=model, fingerprint=fingerprint, preprocessing={"size": 8})
    write_code_file(path, codes.reshape(len(rows), size), entries, manifest)
    return path


def push(path, address, name=b"codes.bin"):
    with CodeFile.open(path) as file, Connection(address) as connection:
        return load_codes(file, connection, name)


@contextmanager
def open_table(address):
    with Connection(address) as connection:
        yield CodeTable(connection)


def ask(codes, n_bits, queries, under=(), **options):
    gallery = FileGallery(codes, under) if isinstance(codes, CodeFile) else TableGallery(codes, under)
    texts = [format_hex(np.frombuffer(q.to_bytes((n_bits + 7) // 8, "little"), np.uint8)) for q in queries]
    asked = [Query(name=text.encode(), code=text) for text in texts]
    return list(answer_queries(gallery, asked, QueryOptions(**options)))


def count_rows(address):
    with Connection(address) as connection:
        ((n,),) = connection.query(f"SELECT count() FROM `{address.database}`.`{address.table}`")
    return n


SOME = {b"%d/%d.jpg" % (i % 3, i): i * 37 % 64 for i in range(100)}


@st.composite
def galleries(draw):
    """Code lengths, and two contents of each of two files: few codes, so that many distances are equal."""
    n_bits = draw(st.sampled_from([12, 48, 64, 128]))
    codes = draw(st.lists(st.integers(0, 2**n_bits - 1), min_size=1, max_size=4))
    names = st.binary(min_size=1, max_size=6).map(lambda name: name.replace(b"\0", b"'\\\n").replace(b"/", b"-"))
    names = names.filter(lambda name: name not in (b".", b".."))
    paths = st.builds(bytes.__add__, st.sampled_from([b"", b"a/", b"a/\xff b/", b"ab/"]), names)
    versions = st.dictionaries(paths, st.sampled_from(codes), max_size=25)
    one, two = ([draw(versions), draw(versions)] for _ in range(2))
    for version in range(2):
        two[version] = {path: code for path, code in two[version].items() if path not in one[0].keys() | one[1].keys()}
    return n_bits, codes, one, two


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(galleries(), st.data())
def test_answers_are_those_of_the_code_file(database, drop, tmp_path_factory, drawn, data):
    n_bits, codes, one, two = drawn
    folder = tmp_path_factory.mktemp("codes")
    address = replace(database, table=f"{database.table}_{secrets.token_hex(4)}")
    queries = [*codes[:2], data.draw(st.integers(0, 2**n_bits - 1))]
    under = [[], ["/photos/a"], ["/photos/a/\udcff b", "/photos/ab"], ["/photos/a", "/photos"], ["/photos/no"]]
    options = {
        "top_k": data.draw(st.none() | st.integers(1, 30)),
        "max_distance": data.draw(st.none() | st.integers(0, n_bits)),
        "under": data.draw(st.sampled_from(under)),
    }

    def check(*paths):
        merge_codes(paths, folder / "merged")
        with CodeFile.open(folder / "merged") as file, open_table(address) as table:
            assert (len(table), table.manifest.root, table.manifest.n_bits) == (len(file), file.root, n_bits)
            paths = [os.path.join(os.fsencode(file.root), entry.path) for entry in file]
            # One that holds no picture is an error: of a table, if that is so of all.
            held = [
                each for each in options["under"] if any(path.startswith(os.fsencode(each) + b"/") for path in paths)
            ]
            if options["under"] and not held:
                for codes in (table, file):
                    with pytest.raises(DrhnError, match="in this folder"):
                        ask(codes, n_bits, queries, **options)
            else:
                given = {**options, "under": held}
                assert ask(table, n_bits, queries, **given) == ask(file, n_bits, queries, **given)
            assert ask(table, n_bits, queries, top_k=3) == ask(file, n_bits, queries, top_k=3)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(load, "SLICE_ROWS", data.draw(st.sampled_from([7, 1000])))
            for version in range(2):
                push(write(folder / "one", one[version], n_bits=n_bits), address, b"one")
                check(folder / "one")
            assert count_rows(address) == len(one[1])
            for version in range(2):
                push(write(folder / "two", two[version], n_bits=n_bits), address, b"\xff two")
                check(folder / "one", folder / "two")
            assert count_rows(address) == len(one[1]) + len(two[1])
    finally:
        drop(address)


@pytest.mark.parametrize("n_bits", [5, 12, 16, 24, 32, 48, 64, 96, 128])
def test_every_code_length_with_many_ties_and_fewer_rows_than_asked_for(address, tmp_path, n_bits):
    codes = [0, 2**n_bits - 1, 2 ** (n_bits - 1), 0b10110]
    for n in (90, 40):  # those beyond 40 are deleted
        path = write(tmp_path / "codes.bin", {b"%d/%d" % (i % 3, i): codes[i % 4] for i in range(n)}, n_bits=n_bits)
        push(path, address)
        with CodeFile.open(path) as file, open_table(address) as table:
            for options in ({"top_k": 1}, {"top_k": 23}, {"top_k": 1000}, {"top_k": None, "max_distance": 3}):
                found = ask(table, n_bits, [0, 1, codes[1]], **options)
                assert found == ask(file, n_bits, [0, 1, codes[1]], **options)
            assert len(ask(table, n_bits, [0], top_k=1000)[0].matches) == n


def test_roots_of_several_files_may_lie_anywhere(address, tmp_path):
    roots = {b"x": "/a/c", b"y": "/a", b"z": "/a/b/d"}
    for name, root in roots.items():
        push(write(tmp_path / os.fsdecode(name), {b"c/%d" % i: i for i in range(9)}, root=root), address, name)
    merge_codes([tmp_path / os.fsdecode(name) for name in roots if name != b"y"], tmp_path / "merged")
    with open_table(address) as table:
        assert table.manifest.root == "/a"
        everything = ask(table, 48, [1], top_k=None)[0].matches
        assert everything == sorted(everything, key=lambda match: (match.distance, match.path))
        assert len(everything) == 27
        found = {match.path for match in ask(table, 48, [0], top_k=None, under=["/a/c/c", "/a/b"])[0].matches}
        expected = {b"/a/c/c/%d", b"/a/b/d/c/%d", b"/a/c/%d"} - {b"/a/c/%d"}
        assert found == {path % i for path in expected for i in range(9)}
        assert len(ask(table, 48, [0], top_k=None, under=["/"])[0].matches) == 27
        with pytest.raises(DrhnError, match="outside of the table"):
            ask(table, 48, [0], under=["/b"])
        assert table.find(b"/a/c/3")[0].path == b"c/3"
        entry, code = table.find(b"/a/c/c/3")
        assert entry == Entry(path=b"c/3", stamp=FileStamp(size=21, mtime_ns=-21, inode=3))
        assert code.tolist() == [3, 0, 0, 0, 0, 0]
        assert table.find(b"/a/c/c/10") is None
        assert table.find(b"/elsewhere") is None


def test_what_was_pushed_is_not_sent_again(address, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "SLICE_ROWS", 30)
    path = write(tmp_path / "codes.bin", SOME)
    assert push(path, address).n_sent == 100
    assert push(path, address).n_sent == 0
    write(path, SOME, root="/moved")
    assert push(path, address).n_sent == 0
    with open_table(address) as table:
        assert table.manifest.root == "/moved"
    again = push(path, address, b"another name")
    assert (again.n_sent, again.n_files, again.n_table) == (100, 2, 200)


def test_rows_are_counted_before_and_after_they_are_sent_and_once_where_none_is(address, tmp_path, monkeypatch):
    query, counted = Connection.query, []
    monkeypatch.setattr(Connection, "query", lambda *args: counted.append("count()" in args[1]) or query(*args))
    path = write(tmp_path / "codes.bin", SOME)
    for expected in (2, 1):
        counted.clear()
        push(path, address)
        assert sum(counted) == expected


@pytest.mark.parametrize(
    ("options", "n_statements"),
    [({"top_k": 3}, 2), ({"top_k": None, "under": ["/photos/1"]}, 2), ({"top_k": 3, "max_distance": 0}, 1)],
)
def test_a_query_takes_two_statements_and_one_where_nothing_is_near(
    address, tmp_path, monkeypatch, options, n_statements
):
    push(write(tmp_path / "codes.bin", SOME), address)
    query, statements = Connection.query, []
    with open_table(address) as table:
        monkeypatch.setattr(Connection, "query", lambda *args: statements.append(args[1]) or query(*args))
        (answer,) = ask(table, 48, [1 << 40], **options)
    assert (len(statements), bool(answer.matches)) == (n_statements, n_statements == 2)


def test_codes_are_stored_as_they_are(address, tmp_path):
    push(write(tmp_path / "codes.bin", SOME), address)
    with Connection(address) as connection:
        ((codec,),) = connection.query(
            f"SELECT compression_codec FROM system.columns WHERE table = '{address.table}' AND name = 'code'"
        )
    assert codec == b"CODEC(NONE)"  # even bits do not compress


def test_a_table_is_described(address, tmp_path, monkeypatch, drhn):
    monkeypatch.setattr(load, "SLICE_ROWS", 30)
    push(write(tmp_path / "one", SOME), address, b"one")
    push(write(tmp_path / "two", {b"x": 1}, root="/photos/more"), address, b"\xff two")
    url = str(address)
    monkeypatch.setattr(TableAddress, "parse", lambda _: address)  # that of an embedded table does not name it
    (line,) = drhn("info", url, "--verify", "--json").lines
    assert json.loads(line) == {
        "kind": "table",
        "n_items": 101,
        "bits": 48,
        "root": "/photos",
        "model": "fast",
        "fingerprint": "f" * 64,
        "preprocessing": {"size": 8},
        "files": {"one": 100, "\udcff two": 1},
        "verified": True,
    }
    with Connection(address) as connection:
        connection.command(f"ALTER TABLE {Schema(connection).rows} DELETE WHERE id = 7 SETTINGS mutations_sync = 2")
    assert json.loads(drhn("info", url, "--json").out)["verified"] is False
    result = drhn("info", url, "--verify")
    assert result.status == 2
    assert re.search(r"expected 100 rows, found 99.*push the code files again", result.err)


def test_an_interrupted_push_goes_on_and_readers_see_the_old_content_until_then(address, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "SLICE_ROWS", 30)
    insert, path = Connection.insert, tmp_path / "codes.bin"
    push(write(path, {b"old": 1}), address)
    write(path, SOME)
    sent = []

    def fail_at_third(self, table, *rest):
        sent.append(table)
        if len(sent) == 4:  # the first is the state of the push
            raise TableError("the line is dead")
        insert(self, table, *rest)

    monkeypatch.setattr(Connection, "insert", fail_at_third)
    with pytest.raises(TableError, match="dead"):
        push(path, address)
    monkeypatch.setattr(Connection, "insert", insert)
    with open_table(address) as table:
        assert [match.path for match in ask(table, 48, [0])[0].matches] == [b"/photos/old"]
    assert count_rows(address) == 61
    assert push(path, address).n_sent == 40
    with open_table(address) as table, CodeFile.open(path) as file:
        assert ask(table, 48, [0, 5], top_k=None) == ask(file, 48, [0, 5], top_k=None)
    assert count_rows(address) == 100


def test_a_slice_that_arrives_twice_counts_once(address, tmp_path, monkeypatch):
    insert = Connection.insert

    def twice(self, *arguments):
        insert(self, *arguments)
        insert(self, *arguments)

    monkeypatch.setattr(Connection, "insert", twice)
    push(write(tmp_path / "codes.bin", SOME), address)
    assert count_rows(address) == 100


def test_a_slice_is_one_block(address, tmp_path):
    rows = {b"%07d" % i: i % 5 for i in range(300_000)}
    push(write(tmp_path / "codes.bin", rows), address)
    with Connection(address) as connection:
        ((n,),) = connection.query(f"SELECT count() FROM system.parts WHERE table = '{address.table}'")
    assert n == 1


@pytest.mark.parametrize(("n_bits", "slices"), [(48, [1_000_000, 1_000_000, 1]), (4096, [219_310] * 9 + [26_211])])
def test_rows_go_in_slices_of_a_million_and_of_fewer_where_codes_are_long(monkeypatch, n_bits, slices):
    n_items, sent = 2_000_001, []
    codes = np.broadcast_to(np.uint8(0), (n_items, n_bits // 8))
    monkeypatch.setattr(load, "pack_rows", lambda generation, row, codes, entries: bytes(len(codes)))  # noqa: ARG005

    class File:
        def __init__(self):
            self.codes = codes

        def __len__(self):
            return n_items

        def blocks(self):
            for start in range(0, n_items, 4096):
                part = codes[start : start + 4096]
                yield part, Rows(len(part)), None

    class Rows:
        def __init__(self, n):
            self._n = n

        def __len__(self):
            return self._n

        def part(self, start, stop):
            return Rows(stop - start)

    connection = SimpleNamespace(
        address=TableAddress(folder="x"),
        insert=lambda table, columns, rows, settings: sent.append(len(rows)),  # noqa: ARG005
        query=lambda _: list(enumerate(sent)),
    )
    assert load.send_missing(File(), Schema(connection), 7, SILENT) == n_items
    assert sent == slices


def test_rows_that_are_there_twice_are_sent_anew(address, tmp_path):
    path = write(tmp_path / "codes.bin", SOME)
    push(path, address)
    with Connection(address) as connection:
        rows = Schema(connection).rows
        connection.command(f"SYSTEM STOP MERGES {rows}")
        connection.command(f"INSERT INTO {rows} SELECT * FROM {rows} LIMIT 10")
    with open_table(address) as table, pytest.raises(TableError, match=r"expected 100 rows, found 110.*push"):
        ask(table, 48, [0])
    assert push(path, address).n_sent == 100
    assert count_rows(address) == 100


def test_rows_that_are_gone_are_an_error_until_they_are_pushed_again(address, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "SLICE_ROWS", 30)
    path = write(tmp_path / "codes.bin", SOME)
    push(path, address)
    with Connection(address) as connection:
        schema = Schema(connection)
        ((generation,),) = connection.query(f"SELECT DISTINCT generation FROM {schema.rows}")
        schema.drop_generation(generation)
    with open_table(address) as table, pytest.raises(TableError, match=r"expected 100 rows, found 0"):
        ask(table, 48, [0])
    with open_table(address) as table, pytest.raises(TableError, match=r"expected 100 rows, found 0"):
        ask(table, 48, [0], under=["/photos/1"])
    assert push(path, address).n_sent == 100
    with open_table(address) as table, pytest.raises(DrhnError, match="no picture of the code file is in this"):
        ask(table, 48, [0], under=["/photos/no"])


def test_a_push_that_loses_rows_does_not_go_live(address, tmp_path, monkeypatch):
    monkeypatch.setattr(Connection, "insert", lambda *_: None)
    with pytest.raises(TableError, match="not all rows have arrived"):
        push(write(tmp_path / "codes.bin", SOME), address)


def test_an_open_table_follows_a_push(address, tmp_path):
    path = tmp_path / "codes.bin"
    push(write(path, SOME), address)
    with open_table(address) as table:
        assert len(ask(table, 48, [0], top_k=None)[0].matches) == 100
        push(write(path, {b"new": 1}), address)
        assert [match.path for match in ask(table, 48, [0])[0].matches] == [b"/photos/new"]


def test_content_that_comes_back_is_pushed_anew(address, tmp_path):
    path = tmp_path / "codes.bin"
    for rows in (SOME, {b"new": 1}, SOME):
        assert push(write(path, rows), address).n_sent == len(rows)
    with open_table(address) as table:
        assert len(ask(table, 48, [0], top_k=None)[0].matches) == 100
    with Connection(address) as connection:
        assert len(Schema(connection).read_files()) == 2


@pytest.mark.parametrize("other", [{"fingerprint": "e" * 64, "model": "slow"}, {"n_bits": 44}])
def test_codes_of_another_model_are_refused(address, tmp_path, other):
    push(write(tmp_path / "codes.bin", SOME), address)
    with pytest.raises(TableError, match=r"codes of another model, those of codes.bin .*expected fast \(ffff"):
        push(write(tmp_path / "other.bin", SOME, **other), address, b"other.bin")


def test_codes_of_another_length_are_refused(address, tmp_path):
    push(write(tmp_path / "codes.bin", SOME), address)
    with pytest.raises(TableError, match=r"another length .expected FixedString.8., found FixedString.6."):
        push(write(tmp_path / "other.bin", SOME, n_bits=64), address)


def test_a_table_of_two_models_is_not_searched(address, tmp_path):
    path = write(tmp_path / "codes.bin", SOME)
    push(path, address)
    with CodeFile.open(path) as file, Connection(address) as connection:
        schema = Schema(connection)
        (pushed,) = schema.read_files()[:1]
        manifest = replace(file.manifest, fingerprint="e" * 64)
        schema.write_file(replace(pushed, name=b"other", state=b"live", version=9, manifest=manifest))
    with pytest.raises(TableError, match=r"several models.*ffff.*eeee"), open_table(address):
        pass


def test_a_table_of_files_without_a_folder_in_common_is_refused(address, tmp_path):
    push(write(tmp_path / "codes.bin", SOME), address)
    push(write(tmp_path / "other.bin", SOME, root="D:\\photos"), address, b"other.bin")
    message = r"no folder in common .found /photos, D:.photos.; push the code files of each"
    with pytest.raises(TableError, match=message), open_table(address):
        pass


def test_what_is_no_table_of_codes_is_refused(address, tmp_path):
    path = write(tmp_path / "codes.bin", SOME)
    with pytest.raises(TableError, match=r"no such table; load one with drhn push"), open_table(address):
        pass
    with Connection(address) as connection:
        schema = Schema(connection)
        schema.create(48)
        with pytest.raises(TableError, match="no code file has been pushed"):
            CodeTable(connection)
        connection.command(f"DROP TABLE {schema.rows}")
        with pytest.raises(TableError, match="the table of files alone"):
            push(path, address)
        connection.command(f"CREATE TABLE {schema.rows} (x UInt8) ENGINE = MergeTree ORDER BY x")
        with pytest.raises(TableError, match=r"not a table of codes .*found x\); name another table"):
            push(path, address)


def test_an_error_of_a_statement_is_one_line(address):
    with Connection(address) as connection, pytest.raises(TableError, match="UNKNOWN_IDENTIFIER") as caught:
        connection.query("SELECT\nnope")
    assert "\n" not in caught.value.message
    assert str(address) in caught.value.message


def test_a_wrong_password_is_not_repeated(database, monkeypatch, tmp_path):
    if database.folder is not None:
        pytest.skip("an embedded database has no password")
    monkeypatch.setenv(PASSWORD, "xyzzy")
    with pytest.raises(TableError, match=r"AUTHENTICATION_FAILED.*\$CLICKHOUSE_PASSWORD") as caught:
        Connection(database)
    assert "xyzzy" not in caught.value.message
    (tmp_path / "password").write_text(f"{SECRET}\n")
    if database.user == "me":
        monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "password"))
        with Connection(database):
            pass


def test_a_server_that_is_not_there_and_a_password_file_that_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv(PASSWORD, "xyzzy")
    with pytest.raises(
        TableError, match=r"codes: ClickHouse cannot be reached \(found Connection refused\); see"
    ) as caught:
        Connection(TableAddress(host="127.0.0.1", port=9))
    assert "xyzzy" not in caught.value.message
    assert caught.value.__cause__ is None
    monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "no"))
    with pytest.raises(DrhnError, match=r"password file of \$CLICKHOUSE_PASSWORD_FILE .found No such file"):
        Connection(TableAddress(host="127.0.0.1", port=9))


def test_without_the_packages_they_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "clickhouse_connect", None)
    with pytest.raises(ConfigError, match=r"clickhouse_connect.*pip install 'drhn\[clickhouse\]'"):
        Connection(TableAddress(folder="x"), may_create=True)


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("chdb:./folder", {"folder": "./folder"}),
        ("clickhouse://me@db:9000/photos.codes", {"host": "db", "port": 9000, "user": "me", "database": "photos"}),
        ("clickhouse://db/photos", {"host": "db", "table": "photos"}),
        (
            "clickhouse://m%40e@[::1]:8443/a.b",
            {"host": "::1", "port": 8443, "user": "m@e", "database": "a", "table": "b"},
        ),
    ],
)
def test_urls(url, fields):
    address = TableAddress.parse(url)
    assert is_table(url)
    assert address == TableAddress(**fields)
    assert TableAddress.parse(str(address).replace("m@e", "m%40e")) == address


@pytest.mark.parametrize(
    "url",
    ["chdb:", *(f"clickhouse://{rest}" for rest in ("db", "db/a.b.c", "db/a;b", "db:x/a", "/a", "db/a?b=c", "db/a#b"))],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"clickhouse://user@host:8123/database.table or chdb:./folder"):
        TableAddress.parse(url)


@pytest.mark.parametrize("user", ["me:xyzzy", "me:xyzzy#1", "me:xy/zzy", ":xyzzy", "me:1#xyzzy"])
def test_a_password_in_a_url_is_refused_and_not_repeated(user):
    with pytest.raises(ConfigError, match="a password in a URL is seen by everyone") as caught:
        TableAddress.parse(f"clickhouse://{user}@db/a.b")
    assert "zzy" not in caught.value.message


@pytest.mark.parametrize("lengths", [[], [1], [0, 127, 128, 3, 16_383, 16_384, 70_000, 1]])
def test_rows_are_packed_as_row_binary(lengths):
    rng = np.random.default_rng(0)
    codes = pack_bits(rng.random((len(lengths), 44)) < 0.5)
    paths = [rng.bytes(length) for length in lengths]
    n = len(lengths)
    numbers = rng.integers(0, 2**62, n), rng.integers(-(2**62), 0, n), rng.integers(0, 2**64, n, np.uint64)
    entries = entries_of(paths, *numbers)
    expected = b"".join(
        struct.pack("<QQ", 2**64 - 1, 5 + row) + code.tobytes() + pack_string(path) + struct.pack("<QqQ", *rest)
        for row, (code, path, *rest) in enumerate(zip(codes, paths, *numbers, strict=True))
    )
    assert pack_rows(2**64 - 1, 5, codes, entries) == expected


@pytest.mark.parametrize(("n", "head"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\1"), (300, b"\xac\2")])
def test_strings_are_packed_after_their_length(n, head):
    assert pack_string(b"x" * n) == head + b"x" * n


@pytest.mark.parametrize("local", ["photos", ""])
def test_rows_of_a_cluster_are_dropped_on_all_shards(local):
    statements = []
    connection = SimpleNamespace(
        address=TableAddress(host="db", database="photos", table="codes"),
        query=lambda _: [(f"Distributed('big', '{local}', 'codes_local', cityHash64(id))".encode(),)],
        command=statements.append,
    )
    Schema(connection).drop_generation(7)
    assert statements == ["ALTER TABLE `photos`.`codes_local` ON CLUSTER 'big' DROP PARTITION ID '7'"]
