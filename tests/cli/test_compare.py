import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.codes.reader import CodeFile
from drhn_cli.retrieval import duplicates
from drhn_cli.search.hamming import hamming_distances

A, B = "photos/circle/0000.png", "photos/checker/0001.png"


@pytest.fixture
def compare(drhn, photos, weights_path):  # noqa: ARG001 - the working directory with the pictures
    return lambda *arguments, **settings: drhn("compare", *arguments, "--weights", weights_path, **settings)


def test_the_distance_is_that_of_the_code_file_and_the_status_tells_near_from_far(compare, update):
    update()
    with CodeFile.open("codes.bin") as file:
        rows = [file.find(path.removeprefix("photos/").encode()) for path in (A, B)]
        distance = int(hamming_distances(*(np.array(file.codes[row : row + 1]) for row in rows))[0, 0])
    assert distance > 0
    for radius, status in ((distance, 0), (distance - 1, 1)):
        result = compare(A, B, "--max-distance", radius)
        assert (result.status, result.lines, result.err) == (status, [str(distance)], "")


def test_equal_pictures_are_near_and_others_are_not_by_default(compare):
    shutil.copy(A, "copy.png")
    assert (compare(A, "copy.png").status, compare(A, B).status) == (0, 1)


def test_near_by_default_is_what_dups_takes_for_a_duplicate(compare, monkeypatch):
    monkeypatch.setattr(duplicates, "near_distance", lambda n_bits: n_bits)
    assert compare(A, B).status == 0


def test_as_json_at_another_length(compare):
    told = json.loads(compare(A, A, "--bits", "12", "--json").out)
    assert told == {"a": A, "b": A, "distance": 0, "bits": 12, "near": True}
    result = compare(A, A, "--bits", "13")
    assert (result.status, "makes no codes of 13 bits" in result.err) == (2, True)


def test_tta_gives_the_distance_of_a_code_file_made_with_it(compare, update):
    pair = A, "photos/square/0001.png"
    update(views=2)
    with CodeFile.open("codes.bin") as file:
        rows = [file.find(path.removeprefix("photos/").encode()) for path in pair]
        distance = int(hamming_distances(*(np.array(file.codes[row : row + 1]) for row in rows))[0, 0])
    assert compare(*pair, "--tta").lines == [str(distance)] != compare(*pair).lines


def test_either_picture_may_come_on_stdin_but_not_both(compare):
    assert compare("-", A, stdin=Path(A).read_bytes()).lines == ["0"]
    assert compare(A, "-", stdin=Path(A).read_bytes()).lines == ["0"]
    result = compare("-", "-", stdin=Path(A).read_bytes())
    assert (result.status, "both pictures are on stdin" in result.err) == (2, True)


@pytest.mark.parametrize("pair", [("nowhere.png", A), (A, "nowhere.png"), (A, "photos")])
def test_a_picture_that_cannot_be_read_is_status_2(compare, pair):
    result = compare(*pair)
    assert (result.status, result.out) == (2, b"")
    assert {"nowhere.png", "photos"} & {result.err.split(": ")[1]}
