import os
from dataclasses import replace
from pathlib import Path

import pytest

from drhn_cli.codes.manifest import Shard
from drhn_cli.codes.reader import CodeFile
from drhn_cli.codes.writer import write_code_file
from drhn_cli.collection import update as hash_module
from drhn_cli.collection.merge import merge_codes
from drhn_cli.collection.plan import HashOptions
from drhn_cli.collection.sources import choose_shard
from drhn_cli.collection.update import update_collection
from drhn_cli.errors import CodeFileError, ConfigError
from drhn_cli.network import encoder as encoders
from tests.archives import encoded, write_tar
from tests.drawing import draw_picture
from tests.hearing import Hearing

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}


def array(task, first, last, count):
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT")
    return dict(zip(names, map(str, (task, first, last, count)), strict=True))


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (None, None)),
        ("2/4", {}, (Shard(number=2, count=4), None)),
        ("1/1", {}, (None, None)),
        ("1/1", TORCHRUN, (None, None)),
        ("3/8", TORCHRUN, (Shard(number=3, count=8), None)),
        ("3/8", array(3, 3, 3, 1), (Shard(number=3, count=8), None)),
        (None, TORCHRUN, (Shard(number=2, count=4), "torchrun")),
        (None, {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, (None, None)),
        (None, {"RANK": "1", "WORLD_SIZE": "4"}, (None, None)),  # of something else
        (None, array(3, 1, 4, 4), (Shard(number=3, count=4), "the Slurm array")),
        (None, array(3, 0, 3, 4), (Shard(number=4, count=4), "the Slurm array")),
    ],
)
def test_the_part_that_is_asked_for_goes_before_that_of_the_environment(text, environment, expected):
    assert choose_shard(text, environment) == expected


@pytest.mark.parametrize("text", ["", "2", "2/", "/4", "0/4", "5/4", "-1/4", "2/4/6", "a/b", " 2/4", "2/0", "²/4"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ConfigError, match="part"):
        choose_shard(text, {})


@pytest.mark.parametrize(
    "environment",
    [
        array(3, 3, 3, 1),  # sbatch --array=3: one of how many?
        array(1, 1, 1, 1),
        array(3, 3, 4, 2),
        array(1, 1, 3, 2),  # --array=1,3
        array(4, 0, 8, 3),  # --array=0-8:4
        array(9, 1, 4, 4),
        {"SLURM_ARRAY_TASK_ID": "3"},
        {**array(3, 1, 4, 4), "SLURM_ARRAY_TASK_COUNT": "four"},
        {**array(3, 1, 4, 4), **TORCHRUN},
        {**TORCHRUN, "RANK": ""},
        {**TORCHRUN, "RANK": "4"},
    ],
)
def test_an_environment_that_does_not_tell_the_part_is_an_error_and_not_all_pictures(environment):
    with pytest.raises(ConfigError, match=r"--shard 1/1|no such part: 9/4|no such part: 5/4"):
        choose_shard(None, environment)


@pytest.mark.parametrize("count", [2, 3, 7, 100])
def test_each_name_is_in_one_part_and_parts_are_alike_in_size(count):
    names = [b"%04d/%06d.jpg" % (i % 9, i) for i in range(5000)]
    shards = [Shard(number=number, count=count) for number in range(1, count + 1)]
    sizes = [0] * count
    for name in names:
        (place,) = [place for place, shard in enumerate(shards) if shard.holds(name)]
        sizes[place] += 1
    mean = len(names) / count
    assert all(abs(size - mean) < 4 * mean**0.5 for size in sizes)


def test_the_part_of_a_name_is_the_same_for_ever():
    assert [next(n for n in range(1, 8) if Shard(number=n, count=7).holds(b"%d.jpg" % i)) for i in range(8)] == [
        *(6, 7, 7, 1, 4, 6, 6, 7)
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("codes.bin", "codes-00002-of-00004.bin"),
        (b"a.b/codes", "a.b/codes-00002-of-00004"),
        (Path("/x/y.tar.bin"), "/x/y.tar-00002-of-00004.bin"),
    ],
)
def test_the_name_of_a_part(path, expected):
    assert Shard(number=2, count=4).path_of(path) == Path(expected)


@pytest.fixture
def hash_part(photos, weights_path):
    """Hash a part of ``photos``, to which another 24 pictures have been added, into its file; 1/1 is all."""
    for i in range(24):
        draw_picture("stripes", 100 + i, 16).save(photos / f"{i:02}.png")

    def call(number, count, **options):
        shard = Shard(number=number, count=count) if count > 1 else None
        path = shard.path_of("codes.bin") if shard else "codes.bin"
        options = HashOptions(weights=str(weights_path), device="cpu", workers=2, shard=shard, **options)
        return update_collection(["photos"], path, options), path

    return call


def names(path):
    with CodeFile.open(path) as file:
        return [entry.path for entry in file]


@pytest.mark.parametrize("count", [2, 5, 40])
def test_parts_are_disjoint_and_merged_are_to_the_byte_the_whole(hash_part, count):
    hash_part(1, 1)
    parts = [hash_part(number, count)[1] for number in range(1, count + 1)]
    assert sorted(name for part in parts for name in names(part)) == names("codes.bin")
    merge_codes(parts, "merged.bin")
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()


def test_a_part_of_many_pictures_has_the_codes_of_torch_though_it_has_few(hash_part, monkeypatch):
    monkeypatch.setattr(encoders, "NUMPY_LIMIT", 31)
    hash_part(1, 1)
    parts = [hash_part(number, 3)[1] for number in range(1, 4)]
    merge_codes(parts, "merged.bin")
    assert Path("merged.bin").read_bytes() == Path("codes.bin").read_bytes()
    chosen = []

    def load(*arguments, n_images, **settings):
        chosen.append(n_images)
        return encoders.Encoder(*arguments, n_images=n_images, **settings)

    monkeypatch.setattr(hash_module, "Encoder", load)
    os.utime("photos/00.png", ns=(0, 10**18))
    for number in range(1, 4):
        hash_part(number, 3)
    assert chosen == [32]


def test_a_picture_that_comes_or_goes_moves_no_other(hash_part, photos):
    parts = [hash_part(number, 3)[1] for number in range(1, 4)]
    before = [names(part) for part in parts]
    (photos / "05.png").unlink()
    draw_picture("circle", 9, 16).save(photos / "005.png")
    summaries = [hash_part(number, 3)[0] for number in range(1, 4)]
    assert sum(summary.added for summary in summaries) == sum(summary.removed for summary in summaries) == 1
    assert sum(summary.unchanged for summary in summaries) == 31
    changed = {b"05.png", b"005.png"}
    assert [[name for name in names(part) if name not in changed] for part in parts] == [
        [name for name in part if name not in changed] for part in before
    ]


def test_a_finished_part_is_not_touched_and_an_interrupted_one_is_not_finished(hash_part, weights_path):
    def part_of(path):
        with CodeFile.open(path) as file:
            return file.manifest.shard

    _, path = hash_part(2, 2)
    assert part_of(path) == Shard(number=2, count=2)
    before = os.stat(path)
    assert hash_part(2, 2)[0].added == 0
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns

    def interrupt(_):
        raise KeyboardInterrupt

    options = HashOptions(weights=str(weights_path), batch_size=4, shard=Shard(number=1, count=2))
    with pytest.raises(KeyboardInterrupt):
        update_collection(["photos"], "codes-00001-of-00002.bin", options, Hearing(advance={"hashing": interrupt}))
    assert part_of("codes-00001-of-00002.bin") == Shard(number=1, count=2, finished=False)
    with pytest.raises(CodeFileError, match=r"codes-00001-of-00002\.bin: part 1 of 2 is not finished; .*--partial"):
        merge_codes(["codes-00001-of-00002.bin", path], "merged.bin")
    assert merge_codes(["codes-00001-of-00002.bin", path], "merged.bin", partial=True).n_items < 32
    hash_part(1, 2)
    assert part_of("codes-00001-of-00002.bin") == Shard(number=1, count=2)
    assert merge_codes(["codes-00001-of-00002.bin", path], "merged.bin").n_items == 32


def test_a_part_without_one_of_its_sources_is_not_finished_until_it_is_there(photos, weights_path):
    def hash_part(number):
        path = Path(f"codes-{number:05}-of-00002.bin")
        options = HashOptions(weights=str(weights_path), shard=Shard(number=number, count=2))
        update_collection(["photos/circle", "photos/square", "photos/a.tar"], path, options)
        return path

    write_tar(photos / "a.tar", [("a.png", encoded("circle", 1))])
    os.rename("photos/square", "square")
    parts = [hash_part(1), hash_part(2)]
    os.rename("square", "photos/square")
    with pytest.raises(CodeFileError, match=r"part 1 of 2 is not finished; .* where all sources can be read"):
        merge_codes(parts, "merged.bin")
    assert [hash_part(1), hash_part(2)] == parts
    assert merge_codes(parts, "merged.bin").n_items == 5


def test_a_part_whose_pictures_went_away_while_it_was_at_them_is_not_finished(photos, weights_path):
    options = HashOptions(weights=str(weights_path), shard=Shard(number=1, count=1))
    summary = update_collection(
        [photos], "a.bin", options, Hearing(begin={"hashing": lambda: photos.rename("unplugged")})
    )
    assert (summary.n_items, len(summary.failures)) == (0, 8)
    with pytest.raises(CodeFileError, match="part 1 of 1 is not finished"):
        merge_codes(["a.bin"], "merged.bin")
    Path("unplugged").rename(photos)
    assert update_collection([photos], "a.bin", options).added == 8
    assert merge_codes(["a.bin"], "merged.bin").n_items == 8


def test_parts_belong_together_still_when_sources_become_more_or_fewer(photos, weights_path):
    def hash_parts(*sources):
        paths = [f"codes-{number:05}-of-00006.bin" for number in range(1, 7)]
        for number, path in enumerate(paths, start=1):
            options = HashOptions(weights=str(weights_path), shard=Shard(number=number, count=6))
            update_collection(sources, path, options)
        return paths

    for sources, n in (([photos / "circle"], 2), ([photos / "circle", photos / "square"], 4), ([photos / "circle"], 4)):
        assert merge_codes(hash_parts(*sources), "merged.bin").n_items == n


def test_parts_of_other_sources_do_not_belong_together_and_the_error_says_so(photos, weights_path):
    for number, sources in ((1, [photos]), (2, [photos / "circle"])):
        options = HashOptions(weights=str(weights_path), shard=Shard(number=number, count=2))
        update_collection(sources, f"{number}.bin", options)
    with pytest.raises(CodeFileError, match="there are parts of other sources, too: hash each part again"):
        merge_codes(["1.bin", "2.bin"], "merged.bin")


def test_a_part_that_has_all_its_pictures_but_was_killed_before_it_said_so_is_finished(hash_part):
    _, path = hash_part(1, 3)
    finished = path.read_bytes()
    with CodeFile.open(path) as file:
        manifest = replace(file.manifest, shard=replace(file.manifest.shard, finished=False))
        write_code_file(path, file.codes, file.entries(), manifest, file.copy_codes)
    assert path.read_bytes() != finished
    assert hash_part(1, 3)[0].added == 0
    assert path.read_bytes() == finished
