import io
import os
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from drhn_cli.codes.pack import format_hex, unpack_bits
from drhn_cli.codes.reader import CodeFile
from drhn_cli.errors import CodeFileError, ConfigError, DrhnError, ImageError
from drhn_cli.images import load as load_module
from drhn_cli.images.load import load_image
from drhn_cli.network import encoder as encoders
from drhn_cli.network.encoder import Encoder
from drhn_cli.network.model import load_model, save_model
from drhn_cli.retrieval.gallery import FileGallery
from drhn_cli.retrieval.query import Query, QueryOptions, answer_queries
from tests.drawing import draw_picture
from tests.networks import random_model, tiny_config

STORED = "photos/circle/0000.png"


@pytest.fixture
def ask(file):
    """Look up one query and return its answer."""

    def call(image=None, code=None, under=(), **options):
        gallery = FileGallery(file, under)
        (answer,) = answer_queries(gallery, [Query(name=b"q", image=image, code=code)], QueryOptions(**options))
        return answer

    return call


@pytest.fixture
def without_decoding(monkeypatch, file):  # noqa: ARG001 - making the file takes decoding
    monkeypatch.delattr(load_module, "load_image")


def paths(answer):
    return [os.path.relpath(os.fsdecode(match.path)) for match in answer.matches]


@pytest.mark.parametrize("n_bits", [12, 16, 48, 64, 128])
def test_faiss_opens_the_file_and_finds_the_same_distances(update, tmp_path, n_bits):
    path = tmp_path / "w.npz"
    save_model(path, random_model(tiny_config(bits=n_bits)))
    update("photos", weights=str(path))
    index = faiss.read_index_binary("codes.bin")
    assert (index.ntotal, index.d) == (8, -(-n_bits // 8) * 8)
    with CodeFile.open("codes.bin") as file:
        queries = [Query(name=b"q", code=format_hex(code)) for code in file.codes]
        answers = list(answer_queries(FileGallery(file), queries, QueryOptions(top_k=8)))
        distances, _ = index.search(np.array(file.codes), 8)
    assert [[match.distance for match in answer.matches] for answer in answers] == distances.tolist()
    assert len(np.unique(distances)) > 3


@pytest.mark.usefixtures("without_decoding")
def test_a_picture_that_is_stored_is_found_without_decoding_it(ask):
    answer = ask(STORED)
    assert answer.matches[0].distance == 0
    assert STORED in paths(answer)
    assert len(answer.matches) == 8


@pytest.mark.usefixtures("without_decoding")
def test_a_picture_that_is_gone_is_found_by_its_code(ask):
    os.remove(STORED)
    assert ask(STORED).matches[0].distance == 0


def test_the_code_of_a_picture_is_not_that_of_a_folder_in_its_place(ask, weights_path):
    os.remove(STORED)
    os.mkdir(STORED)
    answer = ask(STORED, weights=str(weights_path))
    assert (answer.matches, answer.error.problem) == ([], "is a folder")


def test_a_picture_that_has_changed_is_decoded(ask, weights_path):
    draw_picture("checker", 7, 16).save(STORED)
    changed = ask(STORED, weights=str(weights_path))
    assert [match.distance for match in changed.matches] == [
        match.distance for match in ask(io.BytesIO(Path(STORED).read_bytes()), weights=str(weights_path)).matches
    ]
    assert changed.matches != ask(code="00" * 8).matches


@pytest.mark.usefixtures("without_decoding")
def test_a_stored_picture_whose_inode_alone_has_changed_is_not_decoded(ask):
    shutil.copy2(STORED, "copy.png")
    os.replace("copy.png", STORED)
    assert ask(STORED).matches[0].distance == 0


def test_a_stored_picture_that_was_replaced_with_its_time_kept_is_decoded(ask, weights_path, monkeypatch):
    status = os.stat(STORED)
    content = bytearray(Path(STORED).read_bytes())
    content[-1] ^= 1  # of the last checksum, which is not read
    Path("copy.png").write_bytes(content)
    os.utime("copy.png", ns=(0, status.st_mtime_ns))
    os.replace("copy.png", STORED)
    assert os.stat(STORED).st_size == status.st_size
    assert ask(STORED, weights=str(weights_path)).matches[0].distance == 0
    monkeypatch.delattr(load_module, "load_image")
    with pytest.raises(ImportError):
        ask(STORED, weights=str(weights_path))


def test_a_picture_from_elsewhere_is_decoded(ask, weights_path):
    Path("elsewhere.png").write_bytes(Path(STORED).read_bytes())
    assert ask("elsewhere.png", weights=str(weights_path)).matches == ask(STORED).matches


def test_a_new_picture_inside_the_root_is_decoded(ask, weights_path):
    Path("photos/new.png").write_bytes(Path(STORED).read_bytes())
    assert ask("photos/new.png", weights=str(weights_path)).matches == ask(STORED).matches


@pytest.mark.usefixtures("file")
def test_every_picture_finds_its_own_code_when_decoded_anew(ask, weights_path):
    for path in Path("photos").rglob("*.png"):
        answer = ask(io.BytesIO(path.read_bytes()), weights=str(weights_path), max_distance=0, top_k=None)
        assert str(path) in paths(answer)


def test_ties_come_in_the_order_of_paths(ask):
    matches = ask(code="5a" * 8, top_k=None).matches
    assert matches == sorted(matches, key=lambda match: (match.distance, match.path))
    assert len({match.distance for match in matches}) < len(matches)


def test_max_distance_bounds_and_top_k_cuts(ask):
    everything = ask(code="5a" * 8, top_k=None).matches
    radius = everything[3].distance
    assert ask(code="5a" * 8, top_k=None, max_distance=radius).matches == [
        match for match in everything if match.distance <= radius
    ]
    assert ask(code="5a" * 8, top_k=2).matches == everything[:2]
    assert ask(code="5a" * 8, top_k=None, max_distance=everything[0].distance - 1).matches == []


@pytest.mark.parametrize(
    ("folders", "n"), [(["photos/circle"], 2), (["photos/circle", "photos/square"], 4), (["."], 8), (["photos/no"], 0)]
)
def test_only_pictures_in_the_folders_are_found(ask, folders, n):
    answer = ask(STORED, under=folders)
    assert len(answer.matches) == n
    assert all(
        path.startswith(tuple(os.path.normpath(f) for f in folders)) or folders == ["."] for path in paths(answer)
    )


def test_a_folder_whose_name_only_begins_alike_is_another(ask):
    assert ask(STORED, under=["photos/circ"]).matches == []


def test_a_folder_outside_of_the_file_is_refused(ask, tmp_path):
    with pytest.raises(DrhnError, match=r"outside of the code file .*a folder below .*photos"):
        ask(STORED, under=[tmp_path.parent / "other"])


@pytest.mark.parametrize(
    ("code", "message"),
    [("00", "found 2 digits"), ("0g" * 8, "found 'g'"), ("", "found 0 digits"), ("0x" + "0" * 14, "found 'x'")],
)
def test_a_wrong_code_is_refused(ask, code, message):
    with pytest.raises(DrhnError, match=message):
        ask(code=code)


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(file, weights_path):
    Path("text.jpg").write_text("no picture")
    images = ["nowhere.jpg", STORED, "text.jpg", "photos", STORED]
    queries = [Query(name=image.encode(), image=image) for image in images]
    answers = list(answer_queries(FileGallery(file), queries, QueryOptions(weights=str(weights_path))))
    assert [answer.query.decode() for answer in answers] == images
    assert [type(answer.error) for answer in answers] == [ImageError, type(None), ImageError, ImageError, type(None)]
    assert [len(answer.matches) for answer in answers] == [0, 8, 0, 0, 8]


def test_answers_come_one_by_one(file):
    def endless():
        while True:
            yield Query(name=b"q", image=STORED)

    answers = answer_queries(FileGallery(file), endless(), QueryOptions())
    assert next(answers) == next(answers)


def test_weights_of_another_model_are_refused_even_for_a_code(ask, other_weights_path):
    with pytest.raises(CodeFileError, match=r"expected tiny \(.*found other \("):
        ask(code="00" * 8, weights=str(other_weights_path))


def test_weights_that_are_not_bundled_have_to_be_named(ask):
    Path("elsewhere.png").write_bytes(Path(STORED).read_bytes())
    with pytest.raises(CodeFileError, match="no bundled model of that fingerprint"):
        ask("elsewhere.png")


def test_an_unknown_device_is_refused_once_and_not_for_each_picture(ask, weights_path):
    Path("elsewhere.png").write_bytes(Path(STORED).read_bytes())
    for picture in ("elsewhere.png", "photos/circle/0000.png"):  # the second is stored, and needs no device
        with pytest.raises(ConfigError, match="unknown device 'abacus'"):
            ask(picture, weights=str(weights_path), device="abacus")


def test_the_network_is_loaded_once(file, weights_path, monkeypatch):
    loads = []

    def load(*arguments, make=encoders.Encoder, **settings):
        loads.append(arguments)
        return make(*arguments, **settings)

    monkeypatch.setattr(encoders, "Encoder", load)
    images = [Query(name=b"-", image=io.BytesIO(Path(STORED).read_bytes())) for _ in range(2)]
    first, second = answer_queries(FileGallery(file), images, QueryOptions(weights=str(weights_path)))
    assert (first, len(loads)) == (second, 1)


@pytest.mark.parametrize("top_k", [1, 7, 8, None])
def test_a_picture_may_be_left_out_of_its_own_matches(ask, top_k):
    others = [path for path in paths(ask(STORED, top_k=None)) if path != STORED]
    assert paths(ask(STORED, top_k=top_k, not_self=True)) == others[:top_k]


def test_only_the_entry_of_its_own_path_is_left_out(ask, weights_path):
    Path("elsewhere.png").write_bytes(Path(STORED).read_bytes())
    for image in ("elsewhere.png", io.BytesIO(Path(STORED).read_bytes())):
        answer = ask(image, weights=str(weights_path), not_self=True, top_k=None)
        assert (len(answer.matches), STORED in paths(answer)) == (8, True)
    assert len(ask(code="00" * 8, not_self=True).matches) == 8
    draw_picture("checker", 7, 16).save(STORED)
    assert STORED not in paths(ask(STORED, weights=str(weights_path), not_self=True))


def test_without_itself_but_with_its_folder(ask):
    assert paths(ask(STORED, under=["photos/circle"], not_self=True)) == ["photos/circle/0001.png"]
    assert len(ask(STORED, under=["photos/square"], not_self=True, top_k=1).matches) == 1


def test_without_itself_by_asymmetric_rank(ask, weights_path):
    ranked = {"asymmetric": True, "weights": str(weights_path)}
    others = [path for path in paths(ask(STORED, top_k=None, **ranked)) if path != STORED]
    assert paths(ask(STORED, top_k=3, not_self=True, **ranked)) == others[:3]


def test_asymmetric_rank_is_by_activations_against_stored_bits(file, ask, weights_path):
    weights = load_model(weights_path)
    pixels = load_image(STORED, weights.preprocessing)[np.newaxis]
    probabilities = Encoder(weights, device="cpu", n_images=1).bit_probabilities(pixels, 64)
    scores = np.abs(probabilities - unpack_bits(file.codes, 64)).sum(axis=1)
    answer = ask(STORED, asymmetric=True, weights=str(weights_path), top_k=None)
    order = np.argsort(scores, kind="stable")
    assert [match.path for match in answer.matches] == [
        os.path.join(os.fsencode(file.root), file.path_bytes(row)) for row in order.tolist()
    ]
    np.testing.assert_allclose([match.score for match in answer.matches], scores[order])
    by_distance = {match.path: match.distance for match in ask(STORED, top_k=None).matches}
    assert {match.path: match.distance for match in answer.matches} == by_distance


def test_asymmetric_rank_keeps_the_radius_and_the_folder(ask, weights_path):
    near = ask(STORED, top_k=None, max_distance=20, under=["photos/square", "photos/circle"]).matches
    ranked = ask(
        STORED,
        top_k=None,
        max_distance=20,
        under=["photos/square", "photos/circle"],
        asymmetric=True,
        weights=str(weights_path),
    ).matches
    assert {match.path for match in ranked} == {match.path for match in near} != set()


def test_asymmetric_rank_needs_a_picture(ask):
    with pytest.raises(DrhnError, match=r"a code has no activations to rank by .*leave --order out"):
        ask(code="00" * 8, asymmetric=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there(ask, weights_path):
    Path("elsewhere.png").write_bytes(Path(STORED).read_bytes())
    with pytest.raises(ConfigError, match="no cuda device here"):
        ask("elsewhere.png", weights=str(weights_path), device="cuda")
