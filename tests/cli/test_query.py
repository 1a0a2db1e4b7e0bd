import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from drhn_cli.cli.app import run
from drhn_cli.codes.pack import format_hex
from drhn_cli.codes.reader import CodeFile

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")

IMAGE = "photos/circle/0000.png"
CODE = "5a" * 8
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def test_a_pipe_gets_distances_and_paths(query, drhn):
    result = drhn("query", IMAGE, "codes.bin")
    rows = [line.split("\t") for line in result.lines]
    assert (result.status, result.err, len(rows)) == (0, "", 8)
    assert IMAGE in [path for distance, path in rows if distance == "0"]
    assert [int(distance) for distance, _ in rows] == sorted(int(distance) for distance, _ in rows)
    assert query(IMAGE) == result


def test_equal_distances_come_in_the_order_of_paths(query):
    rows = [(int(distance), path) for distance, path in (line.split("\t") for line in query("--code", CODE).lines)]
    assert rows == sorted(rows)


def test_a_picture_elsewhere_is_shown_by_its_absolute_path(query, monkeypatch, tmp_path):
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    result = query("--code", CODE, "../codes.bin")  # the last argument is looked for here, where there is none
    assert result.status == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getcwdb", lambda: b"/nowhere")
    assert all(line.split("\t")[1].startswith(str(tmp_path)) for line in query("--code", CODE).lines)


def test_several_queries_stand_in_front(query):
    result = query(IMAGE, "photos/square/0001.png", "--code", CODE, "--top", "1")
    assert [line.split("\t")[0] for line in result.lines] == [IMAGE, "photos/square/0001.png", CODE]
    assert all(len(line.split("\t")) == 3 for line in result.lines)


def test_a_list_of_queries_stands_in_front_even_if_it_holds_one(query):
    assert query("--files-from", "-", "--top", "1", stdin=f"{IMAGE}\n".encode()).lines[0].startswith(f"{IMAGE}\t0\t")


def test_a_nul_ended_list(query):
    result = query("-0", "--files-from", "-", "--top", "1", stdin=f"{IMAGE}\0{IMAGE}\0".encode())
    assert len(result.out.removesuffix(b"\0").split(b"\0")) == 2


def test_a_nul_ended_list_without_the_0_it_needs_says_so(query):
    result = query("--files-from", "-", stdin=f"{IMAGE}\0{IMAGE}\0".encode())
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert result.err.endswith("; use -0 if the list of files is NUL-separated\n")


def test_json_is_an_object_a_match(query):
    rows = [json.loads(line) for line in query(IMAGE, "--json", "--top", "3").lines]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["query"] for row in rows} == {IMAGE}
    assert set(rows[0]) == {"query", "rank", "distance", "path"}
    assert rows[0]["distance"] == 0


def test_a_query_that_failed_is_an_object_too(query):
    Path("text.jpg").write_text("no picture")
    result = query("nowhere.jpg", IMAGE, "text.jpg", "--json", "--top", "1")
    first, found, last = map(json.loads, result.lines)
    assert (result.status, found["query"], found["rank"]) == (2, IMAGE, 1)
    assert (first["query"], first["path"]) == ("nowhere.jpg", "nowhere.jpg")
    assert first["error"] == "no such file; check the path; it may have been moved"
    assert (last["query"], last["path"], last["error"].split(" (")[0]) == ("text.jpg", "text.jpg", "not a picture")
    assert [line.split(": ")[1] for line in result.err.splitlines()] == ["nowhere.jpg", "text.jpg"]


def test_a_failed_query_without_a_path_has_none(query):
    result = query("-", "--json", stdin=b"no picture")
    (answer,) = map(json.loads, result.lines)
    assert (result.status, answer["query"], answer["path"], set(answer)) == (2, "-", None, {"query", "error", "path"})


@pytest.mark.parametrize("option", [("--rank", "asymmetric"), ("--rank=asymmetric",)])
def test_the_old_name_of_the_order_tells_the_new_one(query, option):
    result = query(IMAGE, *option)
    assert (result.status, result.out) == (2, b"")
    assert result.err.endswith("drhn: --rank is now --order\n")


def test_paths_alone(query):
    lines = query(IMAGE, "--paths").lines
    assert sorted(lines) == sorted(map(str, Path("photos").rglob("*.png")))
    assert query(IMAGE, "--paths", "-0").out.split(b"\0")[:-1] == [os.fsencode(line) for line in lines]


def test_nul_ends_each_match(query):
    assert query(IMAGE, "-0").out == query(IMAGE).out.replace(b"\n", b"\0")


def test_a_picture_on_stdin(query):
    result = query("-", stdin=Path(IMAGE).read_bytes())
    assert (result.status, result.out) == (0, query(IMAGE).out)


def test_no_picture_on_stdin(query):
    result = query("-", stdin=b"")
    assert (result.status, result.out) == (2, b"")
    assert result.err.startswith("drhn: -: empty")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("-", "-"), ("-", "--files-from", "-")])
def test_stdin_is_one_thing(query, arguments):
    result = query(*arguments, stdin=Path(IMAGE).read_bytes())
    assert (result.status, result.out) == (2, b"")
    assert result.err == "drhn: two things are read from stdin; name one of them by its file\n"


def test_a_code(query):
    with CodeFile.open("codes.bin") as file:
        code = format_hex(file.codes[file.find(b"circle/0000.png")])
    assert query("--code", code).out == query("--code", code.upper()).out == query(IMAGE).out


@pytest.mark.parametrize("code", ["00", "zz" * 8, "", "00" * 9])
def test_a_wrong_code_is_an_error(query, code):
    result = query("--code", code)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, b"", 1)
    assert "16 hexadecimal digits for 64 bits" in result.err


def test_top_bounds_the_matches(query):
    assert [len(query(IMAGE, "--top", n).lines) for n in (1, 3, 100)] == [1, 3, 8]


def test_max_distance_finds_all_within_it_however_many(drhn, photos, update):
    for i in range(12):
        Path(photos / f"copy{i}.png").write_bytes(Path(IMAGE).read_bytes())
    update()
    within = [int(line.split("\t")[0]) for line in drhn("query", IMAGE, "codes.bin", "--max-distance", 0).lines]
    assert len(within) >= 13
    assert set(within) == {0}
    assert len(drhn("query", IMAGE, "codes.bin").lines) == 10
    assert len(drhn("query", IMAGE, "codes.bin", "--max-distance", 0, "--top", 2).lines) == 2


def test_under(query):
    assert all(
        line.split("\t")[1].startswith("photos/square/") for line in query(IMAGE, "--under", "photos/square").lines
    )
    result = query(IMAGE, "--under", "/nowhere")
    assert (result.status, "outside of the code file" in result.err) == (2, True)
    mistyped = query(IMAGE, "--under", "photos/squrae")
    assert (mistyped.status, mistyped.out) == (2, b"")
    assert "photos/squrae: no picture of the code file is in this folder" in mistyped.err


@pytest.mark.parametrize(
    ("globs", "left"),
    [
        (["circle"], ["checker/0000", "checker/0001", "square/0000", "square/0001", "stripes/0000", "stripes/0001"]),
        (["0000.png", "s*/"], ["checker/0001", "circle/0001"]),
        (["circle/0000*", "/checker", "nosuch", "square/**"], ["circle/0001", "stripes/0000", "stripes/0001"]),
    ],
)
def test_exclude_leaves_out_pictures_and_what_lies_in_folders(query, globs, left):
    result = query("photos/circle/0000.png", *(part for glob in globs for part in ("--exclude", glob)), "--paths")
    assert sorted(result.lines) == [f"photos/{name}.png" for name in left]


def test_exclude_within_under(query):
    result = query("photos/circle/0000.png", "--under", "photos/circle", "--exclude", "0000.png", "--paths")
    assert result.lines == ["photos/circle/0001.png"]


@pytest.mark.parametrize("end", [b"\n", b"\0"])
def test_answers_are_streamed_while_queries_still_come(start, update, end):
    update()
    null = ("-0",) if end == b"\0" else ()
    with start("query", "--files-from", "-", "codes.bin", "--top", "1", *null) as process:
        for name in (b"photos/circle/0000.png", b"photos/square/0001.png"):
            process.stdin.write(name + end)
            process.stdin.flush()
            answer = b"%s\t0\t%s%s" % (name, name, end)
            assert process.stdout.read(len(answer)) == answer
        process.stdin.close()
    assert process.returncode == 0


def test_nothing_found_is_status_1(query):
    with CodeFile.open("codes.bin") as file:
        far = format_hex(~file.codes[0])
    result = query("--code", far, "--max-distance", "0")
    assert result == (1, b"", "drhn: nothing found\n")
    assert query("--code", far, "--max-distance", "0", "--quiet") == (1, b"", "")


def test_an_empty_code_file_finds_nothing(drhn, update):
    Path("none").mkdir()
    update("none")
    assert drhn("query", "--code", CODE, "codes.bin").status == 1


def test_one_answer_among_several_is_status_0(query):
    with CodeFile.open("codes.bin") as file:
        far = format_hex(~file.codes[0])
    assert query("--code", far, IMAGE, "--max-distance", "0").status == 0


def test_a_picture_that_cannot_be_read_is_reported_and_the_others_are_answered(query):
    result = query("nowhere.jpg", IMAGE, "photos", "--top", "1")
    assert result.status == 2
    assert [line.split("\t")[0] for line in result.lines] == [IMAGE]
    assert [line.split(": ")[1] for line in result.err.splitlines()] == ["nowhere.jpg", "photos"]


@pytest.mark.usefixtures("query")
def test_nothing_to_look_up_is_an_error(drhn):
    result = drhn("query", "codes.bin")
    assert (result.status, "name a picture before the code file" in result.err) == (2, True)


@pytest.mark.usefixtures("query")
def test_a_picture_in_the_place_of_the_code_file_is_an_error(drhn):
    result = drhn("query", "codes.bin", IMAGE)
    assert (result.status, "not a code file" in result.err) == (2, True)


@pytest.mark.usefixtures("query")
def test_another_model_is_refused_naming_both(drhn, other_weights_path):
    result = drhn("query", IMAGE, "codes.bin", "--weights", other_weights_path)
    assert (result.status, result.out) == (2, b"")
    assert "expected tiny (" in result.err
    assert "found other (" in result.err


@pytest.mark.usefixtures("query")
def test_weights_that_are_not_bundled_have_to_be_named(drhn):
    result = drhn("query", "-", "codes.bin", stdin=Path(IMAGE).read_bytes())
    assert (result.status, "--weights FILE" in result.err) == (2, True)


def on_terminal(start, *arguments):
    """Return what a run draws on a terminal."""
    leader, follower = os.openpty()
    process = start(*arguments, stdout=follower)
    _, err = process.communicate(timeout=30)
    os.close(follower)
    assert (process.returncode, err) == (0, b"")
    drawn = b""
    with contextlib.suppress(OSError):  # Linux's way to say that there is no more
        while part := os.read(leader, 1 << 16):
            drawn += part
    os.close(leader)
    return drawn


@POSIX
@pytest.mark.usefixtures("query")
def test_a_terminal_gets_a_table(start):
    drawn = on_terminal(start, "query", "--code", CODE, IMAGE, "codes.bin", "--top", "2").decode()
    rows = [line.split() for line in ESCAPE.sub("", drawn).splitlines()]
    assert rows.count(["distance", "path"]) == 2
    assert [IMAGE] in rows
    assert [CODE] in rows
    assert ["0"] in [row[:1] for row in rows]


@pytest.mark.usefixtures("query")
def test_a_terminal_tells_which_of_several_queries_found_nothing(terminal):
    stdout, _ = terminal()
    with CodeFile.open("codes.bin") as file:
        codes = format_hex(file.codes[0]), format_hex(~file.codes[0])
    options = [f"--code={code}" for code in codes]
    assert run(["query", *options, "codes.bin", "--max-distance", "0", "--exclude", "0001.png"]) == 0
    lines = [line.strip() for line in ESCAPE.sub("", stdout.drawn).splitlines()]
    assert lines == [codes[0], "distance  path", *lines[2:-3], "", f"{codes[1]}: nothing found", ""]
    assert re.fullmatch(r"0  photos/\w+/0000\.png", lines[2])


@pytest.mark.usefixtures("query")
def test_a_terminal_shows_the_scores_that_give_the_order(terminal, weights_path):
    stdout, _ = terminal()
    assert run(["query", IMAGE, "codes.bin", "--order", "asymmetric", "--weights", str(weights_path)]) == 0
    header, *rows = (line.split() for line in ESCAPE.sub("", stdout.drawn).splitlines())
    assert header == ["score", "distance", "path"]
    assert [float(row[0]) for row in rows] == sorted(float(row[0]) for row in rows)


@pytest.mark.usefixtures("query")
def test_paths_on_a_terminal_are_no_escape_sequences(terminal, update):
    Path(IMAGE).rename("photos/\x1b[31m.png")
    update()
    stdout, _ = terminal()
    assert run(["query", "--code", CODE, "codes.bin", "--paths"]) == 0
    assert "\x1b" not in stdout.drawn
    assert "photos/\\x1b[31m.png" in stdout.drawn.splitlines()


@pytest.mark.usefixtures("query")
def test_nothing_found_draws_nothing(terminal):
    stdout, stderr = terminal()
    assert run(["query", "--code", "00" * 8, "codes.bin", "--exclude", "*"]) == 1
    assert (stdout.drawn, stderr.drawn) == ("", "drhn: nothing found\n")


@POSIX
@pytest.mark.usefixtures("query")
def test_nul_ends_each_match_on_a_terminal_too(start):
    assert on_terminal(start, "query", "--code", CODE, "codes.bin", "-0").count(b"\0") == 8


def test_query_and_hash_agree_for_the_bundled_model(drhn, photos):
    assert drhn("hash", photos, "-o", "codes.bin", "-q").status == 0
    Path("elsewhere.png").write_bytes(Path(IMAGE).read_bytes())
    result = drhn("query", "elsewhere.png", "codes.bin", "--max-distance", "0", "--paths")
    assert (result.status, IMAGE in result.lines) == (0, True)


def test_asymmetric_rank_adds_scores_to_json_and_orders_text(query):
    rows = [json.loads(line) for line in query(IMAGE, "--order", "asymmetric", "--json").lines]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores)
    assert query(IMAGE, "--order", "asymmetric").lines == [f"{row['distance']}\t{row['path']}" for row in rows]
    assert all("score" not in json.loads(line) for line in query(IMAGE, "--json").lines)
    refused = query("--code", CODE, "--order", "asymmetric")
    assert (refused.status, "leave --order out" in refused.err) == (2, True)
