import pytest

from drhn_cli.errors import ConfigError
from drhn_cli.retrieval.vocabulary import Vocabulary, read_wordnet

OWN = ("golden_retriever, retriever", "my-house", "class 2", "class 3")


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(read_wordnet().class_names)


@pytest.fixture
def own():
    return Vocabulary(OWN)


@pytest.mark.parametrize(
    ("word", "name", "n_classes"),
    [
        ("dog", "dog", 118),
        ("dogs", "dog", 118),
        ("Dog", "dog", 118),
        ("crane", "crane", 2),  # the bird and the machine
        ("mice", "mouse", 1),
        ("wolves", "wolf", 4),
        ("butterflies", "butterfly", 6),
        ("sunglass", "sunglass", 1),
        ("beach", "beach", 1),  # WordNet calls the class seashore, the package beach
        ("gray wolf", "gray wolf", 1),
        ("grey-wolves", "gray wolf", 1),
        ("tshirt", "T-shirt", 1),
        ("fire engine", "fire engine", 1),
        ("aeroplanes", "aeroplane", 1),
        ("armoured vehicle", "armored vehicle", 1),
        ("snowplow", "snowplough", 1),
    ],
)
def test_a_noun_means_the_classes_that_are_kinds_of_it(vocabulary, word, name, n_classes):
    found = vocabulary.find(word)
    assert (found.name, len(found.classes)) == (name, n_classes)
    assert vocabulary.knows(word)
    assert list(found.classes) == sorted(set(found.classes))


def test_the_classes_of_a_breed_are_among_those_of_dogs(vocabulary):
    names = [vocabulary.class_names[number] for number in vocabulary.find("dog").classes]
    assert "golden retriever" in names
    assert "tabby, tabby cat" not in names


def test_every_class_is_found_by_each_of_its_names(vocabulary):
    for number, names in enumerate(vocabulary.class_names):
        for name in names.split(", "):
            assert number in vocabulary.find(name).classes


def test_one_spelling_has_one_meaning(vocabulary):
    meanings = {}
    for noun in vocabulary.nouns():
        meanings.setdefault(vocabulary.find(noun.name).name, set()).add(noun.classes)
    # The breed and the garment, a wagon in two spellings.
    assert {name for name, classes in meanings.items() if len(classes) > 1} <= {"Cardigan", "wagon", "waggon"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("xylofone", "unknown word: xylofone; nearest: xylophone"),
        ("puppies", "unknown word: puppies; nearest: dog, domestic dog, Canis familiaris, which are more general"),
        ("qqqqq", "unknown word: qqqqq; see `drhn words`"),
        ("per\x1b[1mson", "unknown word: per\\x1b[1mson"),
        ("person", "person cannot be looked for (expected one of its kinds: ballplayer, groom, scuba diver)"),
        ("artefact", "artefact cannot be looked for (expected a word for fewer kinds of things)"),
    ],
)
def test_what_is_not_understood_says_what_is(vocabulary, word, message):
    with pytest.raises(ConfigError) as caught:
        vocabulary.find(word)
    assert str(caught.value).startswith(message)
    assert not vocabulary.knows(word)
    assert word not in [noun.name for noun in vocabulary.nouns()]


def test_nouns_of_which_little_is_known_are_told_apart(vocabulary):
    assert vocabulary.find("flower").is_partial
    assert not vocabulary.find("bird").is_partial


def test_a_pattern_is_a_part_or_a_glob(vocabulary):
    assert [noun.name for noun in vocabulary.nouns("NEWF")] == ["Newfoundland", "Newfoundland dog"]
    assert [noun.name for noun in vocabulary.nouns("beac?")] == ["beach"]
    assert vocabulary.nouns("[b]each") == []
    assert len(vocabulary.nouns()) > 3_000


def test_other_models_know_the_names_of_their_classes(own):
    assert not own.has_nouns
    assert [noun.name for noun in own.nouns()] == ["class 2", "class 3", "golden retriever", "my house", "retriever"]
    assert own.find("golden retrievers").classes == own.find("Retriever").classes == (0,)
    assert own.class_list(own.find("my house")) == "my-house"
    with pytest.raises(ConfigError, match=r"nearest: my house; codes of `drhn hash --weights photos2`"):
        own.find("my horse")
    assert Vocabulary(tuple(map(str, range(1000)))).find("17").classes == (17,)


def test_classes_of_one_name_are_meant_together():
    assert Vocabulary(("cat", "dog", "cat")).find("cat").classes == (0, 2)


def test_a_long_list_of_classes_is_cut(vocabulary):
    assert vocabulary.class_list(vocabulary.find("dog")).endswith(", Afghan hound and 108 more")


def test_labels_are_one_word_for_each_set_of_classes(vocabulary, own):
    labels = vocabulary.labels()
    names = [noun.name for noun in labels]
    assert {"dog", "golden retriever", "bird"} <= set(names)
    assert not {"domestic dog", "animal", "object", "flower"} & set(names)
    assert len({noun.classes for noun in labels}) == len(labels)
    assert {noun.classes for noun in own.labels()} == {(0,), (1,), (2,), (3,)}
