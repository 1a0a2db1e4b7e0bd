import shutil

import pytest

CODE = "00" * 8
IMAGE = "photos/circle/0000.png"
HEAVY = {"torch", "torchvision", "rich"}


def test_starts_without_torch_and_rich(loaded_by, update):
    update()
    commands = (
        "--help",
        "--version",
        "hash --help",
        "weights",
        "info codes.bin",
        f"compare {IMAGE} {IMAGE}",
        "export codes.bin",
        "dups codes.bin --max-distance 64",
        f"query --code {CODE} codes.bin",
        f"query {IMAGE} codes.bin",
    )
    for command, loaded in zip(commands, loaded_by(*commands), strict=True):
        assert loaded & HEAVY == set(), command


@pytest.mark.usefixtures("photos")
def test_few_pictures_are_hashed_and_looked_up_without_torch(loaded_by, weights_path):
    shutil.copy(IMAGE, "elsewhere.png")
    hash_ = f"hash photos -o codes.bin --weights {weights_path}"
    query = f"query elsewhere.png codes.bin --weights {weights_path}"
    assert [loaded & HEAVY for loaded in loaded_by(hash_, hash_, query)] == [set()] * 3


def test_only_what_searches_loads_the_library_that_searches(loaded_by, update):
    update()
    by_info, by_query = loaded_by("info codes.bin", f"query --code {CODE} codes.bin")
    assert "drhn_cli.search.scan" not in by_info
    assert "drhn_cli.search.scan" in by_query


def test_pillow_and_tables_are_loaded_only_where_they_are_read(loaded_by, update):
    update()
    commands = ("info codes.bin", f"query --code {CODE} codes.bin", f"query {IMAGE} codes.bin")
    rare = {"PIL", "filelock", "numpy.ma", "drhn_cli.clickhouse.table", "clickhouse_connect", "chdb"}
    assert [loaded & rare for loaded in loaded_by(*commands)] == [set()] * 3


def test_words_are_looked_up_without_torch_and_pillow(loaded_by, update, weights_path):
    update()
    commands = (f"query --word class_2 codes.bin --weights {weights_path}", f"words --weights {weights_path}")
    rare = {"torch", "torchvision", "rich", "PIL"}
    assert [loaded & rare for loaded in loaded_by(*commands)] == [set()] * 2
