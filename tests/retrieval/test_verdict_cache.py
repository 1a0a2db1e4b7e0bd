import os
import sqlite3
from pathlib import Path

import pytest

from drhn_cli.retrieval import verdict_cache
from drhn_cli.retrieval.verdict_cache import VerdictCache, cache_folder
from drhn_cli.retrieval.verify import Verdict

CROP = Verdict(
    kind="cropped", share=0.9, inner=0, box=(0.1, 0.2, 0.5, 0.75), detail=2.0, lost=(False, True), is_intact=False
)
A, B = b"a" * 16, b"b" * 16


def test_a_verdict_is_kept_in_either_order(tmp_path):
    path = tmp_path / "new" / "verdicts.sqlite"
    with VerdictCache(path) as cache:
        assert cache.get((A, B)) is None
        cache.put([((B, A), CROP)])
        assert (cache.get((B, A)), cache.get((A, B))) == (CROP, CROP.reversed())
    with VerdictCache(path) as cache:
        assert cache.get((B, A)) == CROP
    assert CROP.reversed().reversed() == CROP


def test_verdicts_by_other_rules_do_not_count(tmp_path, monkeypatch):
    with VerdictCache(tmp_path / "verdicts.sqlite") as cache:
        cache.put([((A, B), CROP)])
        monkeypatch.setattr(verdict_cache, "RULES", verdict_cache.RULES + 1)
        assert cache.get((A, B)) is None


@pytest.mark.parametrize("damage", [b"no database", b""])
def test_a_damaged_cache_is_no_error(tmp_path, damage):
    path = tmp_path / "verdicts.sqlite"
    path.write_bytes(damage)
    with VerdictCache(path) as cache:
        cache.put([((A, B), CROP)])
        assert cache.get((A, B)) in (None, CROP)


def test_a_foreign_row_is_no_error(tmp_path):
    path = tmp_path / "verdicts.sqlite"
    with VerdictCache(path) as cache:
        cache.put([((A, B), CROP)])
        with sqlite3.connect(path) as connection:
            connection.execute('UPDATE verdicts SET verdict = \'{"kind": 1, "new": 2}\'')
        assert cache.get((A, B)) is None


def test_without_a_path_nothing_is_kept():
    with VerdictCache(None) as cache:
        cache.put([((A, B), CROP)])
        assert cache.get((A, B)) is None


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/drhn"),
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/drhn"),
        ("darwin", {"HOME": "/home/me"}, "/home/me/Library/Caches/drhn"),
        ("win32", {"LOCALAPPDATA": "/data"}, "/data/drhn"),
    ],
)
def test_the_folder_is_that_of_the_system(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(verdict_cache.sys, "platform", platform)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", *variables):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert os.fspath(cache_folder()) == expected


def test_no_home_folder_is_no_error(monkeypatch):
    def fail():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with VerdictCache.of_user() as cache:
        assert cache.get((A, B)) is None
