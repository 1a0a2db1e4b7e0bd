import shutil

import pytest

CODE = "00" * 8
IMAGE = "photos/circle/0000.png"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("hash", "--help"),
        ("weights",),
        ("info", "codes.bin"),
        ("compare", IMAGE, IMAGE),
        ("export", "codes.bin"),
        ("dups", "codes.bin", "--max-distance", "64"),
        ("query", "--code", CODE, "codes.bin"),
        ("query", IMAGE, "codes.bin"),
    ],
    ids=" ".join,
)
def test_starts_without_torch_and_rich(loaded_by, update, arguments):
    update()
    assert loaded_by(*arguments) & {"torch", "torchvision", "rich"} == set()


@pytest.mark.usefixtures("photos")
def test_few_pictures_are_hashed_and_looked_up_without_torch(loaded_by, weights_path):
    hash_ = ("hash", "photos", "-o", "codes.bin", "--weights", weights_path)
    assert loaded_by(*hash_) & {"torch", "torchvision", "rich"} == set()
    assert loaded_by(*hash_) & {"torch", "torchvision", "rich"} == set()
    shutil.copy(IMAGE, "elsewhere.png")
    query = ("query", "elsewhere.png", "codes.bin", "--weights", weights_path)
    assert loaded_by(*query) & {"torch", "torchvision", "rich"} == set()


def test_only_what_searches_loads_the_library_that_searches(loaded_by, update):
    update()
    assert "drhn_cli.search.scan" not in loaded_by("info", "codes.bin")
    assert "drhn_cli.search.scan" in loaded_by("query", "--code", CODE, "codes.bin")


def test_pillow_and_tables_are_loaded_only_where_they_are_read(loaded_by, update):
    update()
    tables = {"drhn_cli.clickhouse.table", "clickhouse_connect", "chdb"}
    for arguments in (("info", "codes.bin"), ("query", "--code", CODE, "codes.bin"), ("query", IMAGE, "codes.bin")):
        assert loaded_by(*arguments) & {"PIL", "filelock", "numpy.ma", *tables} == set()


def test_words_are_looked_up_without_torch_and_pillow(loaded_by, update, weights_path):
    update()
    for arguments in (
        ("query", "--word", "class 2", "codes.bin", "--weights", weights_path),
        ("words", "--weights", weights_path),
    ):
        assert loaded_by(*arguments) & {"torch", "torchvision", "rich", "PIL"} == set()
