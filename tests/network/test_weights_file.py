import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drhn_cli.errors import WeightsError
from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.model import load_model, save_model
from drhn_cli.network.quantize import quantize
from drhn_cli.network.weights_file import halve_filters
from tests.networks import lite_config, random_model, tiny_config


@pytest.fixture(scope="module")
def weights():
    return random_model(
        tiny_config(widths=(2, 2, 3, 3, 4, 4), bits=12, nested=(4,), threshold=0.4),
        preprocessing=Preprocessing(size=16, fit="pad", mean=(0.1, 0.2, 0.3)),
        training=[{"recipe": {"seed": 3, "stage": [{}]}, "command": ["drhn", "train", "ünï"]}],
        measured={"on": "test", "lengths": {"12": {"accuracy": 0.5}}},
    )


@pytest.fixture(scope="module")
def content(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    save_model(path, weights)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, content):
    path = tmp_path / "w.npz"
    path.write_bytes(content)
    return path


def rewrite(path, *, arrays=None, **changes):
    """Write the file anew with another manifest or other members; None leaves one out."""
    with np.load(path) as archive:
        members = dict(archive)
    manifest = json.loads(str(members.pop("manifest")))
    manifest = {name: value for name, value in {**manifest, **changes}.items() if value is not None}
    members = {name: value for name, value in {**members, **(arrays or {})}.items() if value is not None}
    with path.open("wb") as stream:
        np.savez(stream, manifest=np.array(json.dumps(manifest)), **members)


def assert_same(found, expected):
    assert replace(found, arrays={}) == replace(expected, arrays={})
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    assert found.fingerprint == expected.fingerprint


def test_weights_come_back_as_they_were(path, weights):
    assert_same(load_model(path), weights)
    assert_same(load_model(os.fsencode(path)), weights)


def test_weights_of_another_trunk_come_back(tmp_path):
    config = lite_config(nested=(8,), unit_features=True, classify_bits=True)
    weights = random_model(config, preprocessing=Preprocessing(size=32, fit="squash"), training=[])
    save_model(tmp_path / "lite.npz", weights)
    found = load_model(tmp_path / "lite.npz")
    assert_same(found, weights)
    assert found.config == config
    halves = {name for name, array in found.arrays.items() if array.dtype == np.float16}
    assert halves == {name for name in found.arrays if "conv.weight" in name}


@pytest.fixture(scope="module")
def integers():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    return quantize(random_model(tiny_config(nested=(4,)), training=[]), pixels)


def test_integers_come_back_as_they_were(tmp_path, integers, weights):
    path = tmp_path / "w.npz"
    save_model(path, integers)
    found = load_model(path)
    assert_same(found, integers)
    assert found.is_integer
    assert not weights.is_integer
    assert (found.manifest()["format"], weights.manifest()["format"]) == (3, 2)
    assert found.describe()["parameters"] == random_model(tiny_config(nested=(4,))).describe()["parameters"]


def test_integers_of_another_trunk_come_back_without_what_training_needs(tmp_path):
    config = lite_config(nested=(8,), unit_features=True, classify_bits=True, hash_norm=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    model = quantize(random_model(config, preprocessing=Preprocessing(size=32, fit="squash"), training=[]), pixels)
    save_model(tmp_path / "lite.npz", model)
    found = load_model(tmp_path / "lite.npz")
    assert_same(found, model)
    assert not [name for name in found.arrays if "norm." in name or name.endswith("step")]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("stem_conv.weight", None, "expected .8, 3, 3, 3., found no such array"),
        ("stem_conv.weight", np.zeros((8, 3, 3, 3), np.int16), "larger than the network|expected int8, found int16"),
        ("stem_conv.bias", np.zeros(8, np.float32), "expected int32, found float32"),
        ("stem_conv.bias", np.zeros(8, ">i4"), "expected int32, found >i4"),
        ("zero_point", np.zeros(7, np.int8), "expected uint8, found int8"),
        ("known_answer", np.zeros(32, np.int32), "do not match their checksum"),
        ("hash.weight", np.zeros((1000, 1000), np.int16), "larger than the network it belongs to"),
    ],
)
def test_an_array_that_does_not_belong_to_the_integers_is_refused(tmp_path, integers, name, array, message):
    path = tmp_path / "w.npz"
    save_model(path, integers)
    rewrite(path, arrays={name: array})
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def test_integers_whose_scale_is_not_a_number_are_not_saved(tmp_path, integers):
    scale = np.full_like(integers.arrays["stem_conv.scale"], np.nan)
    with pytest.raises(WeightsError, match="holds what is not a number"):
        save_model(tmp_path / "w.npz", replace(integers, arrays={**integers.arrays, "stem_conv.scale": scale}))


def test_bundled_weights_have_the_fingerprints_that_codes_were_made_with():
    beginnings = {
        **{"cifar10": "4c286ff8ae57fca8", "paper": "13df09417155ac41", "photos": "21bc60324f09a321"},
        "photos2": "a4747fc6b6d3222d",
    }
    assert {name: load_model(name).fingerprint[:16] for name in beginnings} == beginnings


def test_filters_are_stored_in_half_precision_and_nothing_else_is(weights):
    kinds = {name: array.dtype for name, array in halve_filters(weights.arrays).items()}
    assert {name for name, kind in kinds.items() if kind == np.float16} == {n for n in kinds if "conv.weight" in n}
    assert set(kinds.values()) == {np.dtype(np.float16), np.dtype(np.float32)}


def test_numpy_alone_reads_the_file(path, weights):
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive) == {"manifest", *weights.config.array_shapes()}
        assert json.loads(str(archive["manifest"])) == weights.manifest()
        for name, array in weights.arrays.items():
            assert np.array_equal(archive[name], array)


def test_weights_are_read_where_torch_is_not_installed(path, weights):
    program = """
import sys
class Blocker:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
from drhn_cli.network.model import bundled_paths, load_model
assert bundled_paths() is not None
print(load_model(sys.argv[1]).fingerprint)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, path], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, weights.fingerprint), done.stderr


def test_a_fingerprint_tells_all_that_decides_a_code(weights):
    name = "hash.weight"
    others = [
        replace(weights, config=replace(weights.config, threshold=0.5)),
        replace(weights, preprocessing=replace(weights.preprocessing, fit="crop")),
        replace(weights, arrays={**weights.arrays, name: weights.arrays[name] + 1}),
        replace(weights, arrays={**weights.arrays, name: weights.arrays[name].astype(np.float16)}),
    ]
    assert len({weights.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert replace(weights, name="other", measured={}, training=[]).fingerprint == weights.fingerprint


def test_a_file_is_replaced_whole(path, weights):
    other = replace(weights, name="other")
    save_model(path, other)
    assert load_model(path).name == "other"
    assert os.listdir(path.parent) == ["w.npz"]


def test_arrays_that_do_not_fit_are_not_written(tmp_path, weights):
    path = tmp_path / "w.npz"
    wrong = {**weights.arrays, "hash.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(WeightsError, match=r"'hash.weight' does not fit .*expected \(12, 4\), found \(3, 3\)"):
        save_model(path, replace(weights, arrays=wrong))
    with pytest.raises(WeightsError, match=r"'extra' does not fit .*expected no such array"):
        save_model(path, replace(weights, arrays={**weights.arrays, "extra": np.zeros(1)}))
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_saved(tmp_path, weights, value):
    hash_weight = weights.arrays["hash.weight"].copy()
    hash_weight[0, 0] = value
    with pytest.raises(WeightsError, match=r"array 'hash.weight' holds what is not a number; train at lower rates"):
        save_model(tmp_path / "w.npz", replace(weights, arrays={**weights.arrays, "hash.weight": hash_weight}))
    assert not list(tmp_path.iterdir())


def test_pictures_of_another_size_than_the_networks_are_refused(path, weights):
    size = weights.config.input_size
    rewrite(path, preprocessing={**weights.preprocessing.to_dict(), "size": size + 1})
    with pytest.raises(WeightsError, match=rf"not valid .expected pictures of {size} pixels, found {size + 1}"):
        load_model(path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, weights):
    with pytest.raises(WeightsError, match=r"cannot write the weights .*No such file"):
        save_model(tmp_path / "none" / "w.npz", weights)
    with pytest.raises(WeightsError, match=r"cannot write the weights .*folder"):
        save_model(tmp_path, weights)


def test_every_truncation_is_refused(path, content):
    for length in reversed(range(len(content))):
        os.truncate(path, length)
        with pytest.raises(WeightsError):
            load_model(path)


def test_flipped_bytes_are_refused_or_change_nothing(path, content, weights):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        headers = [info.header_offset for info in archive.infolist()]
    # All through the array data, and every byte of where the structure is.
    spots = {*range(0, len(content), 401), *range(directory, directory + 200), *range(len(content) - 30, len(content))}
    spots |= {start + i for start in headers[:2] for i in range(200)}
    n_refused = 0
    for spot in sorted(spots):
        damaged = bytearray(content)
        damaged[spot] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = load_model(path)
        except WeightsError:
            n_refused += 1
        else:
            assert_same(found, weights)
    assert n_refused > len(spots) / 2


@pytest.mark.full
def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "w.npz"
    weights = random_model(tiny_config(widths=(1,) * 6, bits=8, n_classes=2, input_size=8))
    save_model(path, weights)
    n_harmless = 0
    with path.open("r+b", buffering=0) as stream:
        for place, value in enumerate(path.read_bytes()):
            os.pwrite(stream.fileno(), bytes([value ^ 1 << place % 8]), place)
            try:
                assert_same(load_model(path), weights)
                n_harmless += 1  # dates and the like
            except WeightsError:
                pass
            os.pwrite(stream.fileno(), bytes([value]), place)
    assert_same(load_model(path), weights)
    assert n_harmless < place / 4


FLOATS = "{'descr': '<f4', 'fortran_order': False"


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def with_header(header):
    """Return an .npy of no array that numpy would write."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04", "expected an .npz"),
        (b"just some text\n" * 50, "expected an .npz"),
        (npy(np.zeros(3)), "expected an .npz"),
        (zipped(), "not a drhn weights file"),
        (zipped(x=npy(np.zeros(3))), "expected an .npz with a manifest"),
        (zipped(manifest=b""), "damaged or foreign"),
        (zipped(manifest=b"text"), "damaged or foreign"),
        (zipped(manifest=npy("no json")), "damaged or foreign"),
        (zipped(manifest=npy("[1, 2]")), "expected a manifest, found list"),
        (zipped(manifest=npy("{}")), "a manifest without 'arrays_sha256'"),
        (zipped(manifest=npy("[" * 100_000)), "damaged or foreign"),
        (zipped(manifest=npy(3.5)), "not a drhn weights file"),
        (zipped(manifest=npy(np.array([Trap()], dtype=object))), "Object arrays cannot be loaded"),
        (zipped(manifest=with_header(f"{FLOATS}, 'shape': (10000000000000000,)}}")), "damaged or foreign"),
        (zipped(manifest=with_header(f"{FLOATS}, 'shape': (99999999999999999999,)}}")), "damaged or foreign"),
        (zipped(manifest=with_header(f"{FLOATS}, 'shape': (((((")), "damaged or foreign"),
        (zipped(manifest=with_header("{'descr': '''")), "damaged or foreign"),
        (zipped(manifest=with_header("nonsense")), "damaged or foreign"),
        (zipped(manifest=with_header("{'descr': 5, 'fortran_order': False, 'shape': (1,)}")), "damaged or foreign"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    Path("w.npz").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        load_model("w.npz")
    assert os.listdir() == ["w.npz"]  # no pickle was run


def test_a_pickle_in_the_place_of_an_array_is_refused_and_not_run(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    rewrite(path, arrays={"hash.weight": np.array([Trap()], dtype=object)})
    with pytest.raises(WeightsError, match="Object arrays cannot be loaded"):
        load_model(path)
    assert os.listdir() == [path.name]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_never_writes_is_refused(path, method):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("manifest.npy", npy("{}"))
    with pytest.raises(WeightsError, match="not a drhn weights file"):
        load_model(path)


def test_a_compressed_file_is_read_too(path, weights):
    with np.load(path) as archive:
        members = dict(archive)
    np.savez_compressed(path, **members)
    assert_same(load_model(path), weights)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"none.npz: no such weights file; train weights"):
        load_model(tmp_path / "none.npz")
    with pytest.raises(WeightsError, match=r"cannot read the weights .*directory"):
        load_model(tmp_path)
    with pytest.raises(WeightsError):
        load_model(Path("a\0b"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match=r"pipe: cannot read the weights \(found a pipe or device\)"):
        load_model(tmp_path / "pipe")


def test_the_runs_and_names_of_format_1_are_read_by_their_current_names(path):
    first = {"epochs": 9, "conv_rate": 0.1, "seed": 3, "average": 0.5, "data": "a", "hours": 1.5}
    last = {"epochs": 2, "quantisation": 0.2, "seed": 4, "validation": 0.1, "teacher": "t.npz", "command": ["drhn"]}
    origin = {"name": "first", "fingerprint": "f" * 64}
    measured = {"on": "test", "lengths": {"12": {"k": 10, "precision_at_k": 0.5, "mean_average_precision": 0.4}}}
    rewrite(path, format=1, training={**last, "from": {**origin, "training": first}}, measured=measured)
    model = load_model(path)
    assert model.training == [
        {"recipe": {"seed": 3, "stage": [{"epochs": 9, "muon_lr": 0.1, "swa": 0.5}]}, "data": "a", "hours": 1.5},
        {
            "recipe": {
                **{"seed": 4, "validation": 0.1, "from": origin},
                "stage": [{"epochs": 2, "quantization": 0.2, "distill_from": "t.npz"}],
            },
            "command": ["drhn"],
        },
    ]
    assert model.measured["lengths"] == {"12": {"precision@10": 0.5, "mAP": 0.4}}


def test_weights_of_a_newer_version_are_refused(path):
    rewrite(path, format=4, network={"another": "shape"})
    with pytest.raises(WeightsError, match=r"newer drhn .*format 3 or older, found format 4\); update drhn"):
        load_model(path)


@pytest.mark.parametrize("key", random_model().manifest())
def test_a_manifest_without_a_key_is_refused(path, key):
    rewrite(path, **{key: None})
    with pytest.raises(WeightsError, match=f"a manifest without '{key}'"):
        load_model(path)


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"n_classes": 1}},
        {"network": {}},
        {"network": []},
        {"network": 5},
        {"network": "text"},
        {"network": {"n_classes": 4, "later": 1}},
        {"preprocessing": {"mean": ["a", "b", "c"]}},
        {"preprocessing": {"size": 1e9}},
        {"class_names": 5},
        {"class_names": ["a", "b", "c"]},
        {"class_names": [1, 2, 3, 4]},
        {"training": {}},
        {"training": [5]},
        {"training": [{"recipe": {"stage": []}}]},
        {"format": 1, "training": 5},
        {"format": 1, "training": {"from": 5}},
        {"format": 1, "training": {"from": {"training": [1]}}},
        {"measured": "well"},
        {"arrays_sha256": "0" * 64},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense_is_refused(path, change):
    rewrite(path, **change)
    with pytest.raises(WeightsError):
        load_model(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (None, "expected .12, 4., found no such array"),
        (np.zeros((4, 12), np.float32), "expected .12, 4., found .4, 12."),
        (np.zeros(48, np.float32), "does not fit the network"),
        (np.zeros((12, 4), np.int32), "expected float16 or float32, found int32"),
        (np.full((12, 4), "x"), "another type"),
        (np.zeros((12, 4), np.float32), "do not match their checksum"),
        (np.zeros((1000, 1000), np.float32), "larger than the network it belongs to"),
        (np.array([[Trap()]], dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_an_array_that_does_not_belong_is_refused(path, array, message):
    rewrite(path, arrays={"hash.weight": array})
    with pytest.raises(WeightsError, match=message):
        load_model(path)


def test_a_manifest_that_would_fill_the_memory_is_not_read(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.npy", bytes(2**24 + 1))
    with pytest.raises(WeightsError, match="not a drhn weights file"):
        load_model(path)
