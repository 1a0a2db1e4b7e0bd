import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drhn_cli.codes.pack import pack_bits, unpack_bits
from drhn_cli.errors import ConfigError, WeightsError
from drhn_cli.network.config import N_GROUPS, NetworkConfig
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.encoder import codes_of
from drhn_cli.network.model import load_model, save_model
from drhn_cli.training.augment import alternating_flip, translate
from drhn_cli.training.optimizers import lr_schedule
from drhn_cli.training.stage import Stage
from tests.networks import random_model, tiny_config

few = settings(max_examples=40, deadline=None)
on_one_file = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def network_configs(draw):
    downsample_at = draw(st.sets(st.integers(1, N_GROUPS), max_size=3))
    stem_stride = draw(st.sampled_from([1, 2]))
    bits = draw(st.integers(1, 20))
    return NetworkConfig(
        n_classes=draw(st.integers(2, 5)),
        blocks=draw(st.integers(1, 3)),
        bits=bits,
        threshold=draw(st.floats(0.01, 0.99)),
        widths=tuple(sorted(draw(st.lists(st.integers(1, 6), min_size=N_GROUPS, max_size=N_GROUPS)))),
        downsample_at=tuple(sorted(downsample_at)),
        downsample=draw(st.sampled_from(["stride", "max"])),
        input_size=stem_stride * 2 ** len(downsample_at) * draw(st.integers(1, 2)),
        stem_stride=stem_stride,
        hash_norm=draw(st.booleans()),
        nested=tuple(sorted(draw(st.sets(st.integers(1, bits - 1), max_size=3)))) if bits > 1 else (),
    )


@few
@given(network_configs())
def test_every_valid_network_runs_and_is_described(config):
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    network = DRHN(config).eval()
    state = {name: tuple(v.shape) for name, v in network.state_dict().items() if "num_batches" not in name}
    assert state == config.array_shapes()
    with torch.inference_mode():
        activations = network(torch.randn(2, 3, config.input_size, config.input_size))
        assert activations.shape == (2, config.bits)
        assert ((activations >= 0) & (activations <= 1)).all()
        for n_bits in config.code_lengths:
            assert network.scores(activations, n_bits).shape == (2, config.n_classes)
    assert config.multiply_adds() > 0


@few
@given(network_configs(), st.integers(0, 2**32 - 1))
def test_weights_of_every_network_come_back(tmp_path_factory, config, seed):
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    config = replace(config, input_size=8 * config.input_size)  # pictures have 8 pixels or more each way
    weights = random_model(config, seed)
    save_model(path, weights)
    found = load_model(path)
    assert found.manifest() == weights.manifest()
    assert found.fingerprint == weights.fingerprint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    weights = random_model(tiny_config(widths=(1, 1, 2, 2, 3, 3), bits=9))
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    save_model(path, weights)
    return path.read_bytes(), weights


def load_or_refuse(path, weights):
    """A damaged file is refused as such, or is what it was: anything else that is raised fails the test."""
    try:
        found = load_model(path)
    except WeightsError:
        return
    assert found.manifest() == weights.manifest()
    assert all(np.array_equal(found.arrays[name], array) for name, array in weights.arrays.items())


@on_one_file
@given(st.data())
def test_damaged_weights_are_refused_or_unharmed(tmp_path, written, data):
    content, weights = bytearray(written[0]), written[1]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    start = data.draw(st.none() | st.integers(0, len(content)))
    if start is not None:
        content[start : start + data.draw(st.integers(0, 50))] = data.draw(st.binary(max_size=50))
    (tmp_path / "w.npz").write_bytes(content)
    load_or_refuse(tmp_path / "w.npz", weights)


@on_one_file
@given(st.data())
def test_damage_under_a_right_checksum_is_refused_or_unharmed(tmp_path, written, data):
    """Somebody's own zip file: no checksum of its members helps."""
    content, weights = written
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    name = data.draw(st.sampled_from(sorted(members)))
    for _ in range(data.draw(st.integers(1, 3))):
        spot = data.draw(st.integers(0, min(len(members[name]) - 1, 140)))  # the header, mostly
        members[name][spot] = data.draw(st.integers(0, 255))
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        for member, value in members.items():
            archive.writestr(member, bytes(value))
    load_or_refuse(tmp_path / "w.npz", weights)


@on_one_file
@given(st.data())
def test_any_json_in_the_manifest_is_read_or_refused(tmp_path, written, data):
    manifest = written[1].manifest()
    place = data.draw(st.sampled_from([manifest, manifest["network"], manifest["preprocessing"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    with np.load(io.BytesIO(written[0])) as archive:
        members = {**archive, "manifest": np.array(json.dumps(manifest))}
    np.savez(tmp_path / "w.npz", **members)
    try:
        found = load_model(tmp_path / "w.npz")
    except WeightsError:
        return
    assert found.arrays_sha256 == written[1].arrays_sha256


@few
@given(st.dictionaries(st.sampled_from([*NetworkConfig.__dataclass_fields__, "other"]), json_values, max_size=4))
def test_any_settings_are_valid_or_a_config_error(values):
    for kind in (NetworkConfig, Stage):
        try:
            config = kind.from_dict(values)
        except ConfigError:
            continue
        assert kind.from_dict(config.to_dict()) == config


@few
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 40)), elements=st.floats(0, 1, width=32)),
    st.floats(0.01, 0.99),
    st.data(),
)
def test_a_code_is_its_activations_above_the_threshold(activations, threshold, data):
    n_bits = activations.shape[1]
    network = tiny_config(bits=n_bits, threshold=threshold)
    codes = codes_of(activations, network, n_bits)
    assert (unpack_bits(codes, n_bits) == (activations > threshold)).all()
    prefix = data.draw(st.integers(1, n_bits))
    assert (codes_of(activations, network, prefix) == pack_bits(unpack_bits(codes, n_bits)[:, :prefix])).all()


@few
@given(st.integers(0, 7), st.integers(1, 5), st.integers(0, 2**32))
def test_a_shifted_image_is_made_of_pixels_of_its_own(largest, n, seed):
    images = torch.arange(n * 64.0).view(n, 1, 8, 8)
    shifted = translate(images, largest, torch.Generator().manual_seed(seed))
    assert shifted.shape == images.shape
    assert (shifted // 64 == images // 64).all()


@few
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 10**9))
def test_an_image_is_mirrored_in_one_of_two_epochs(seed, epoch, index):
    image = torch.arange(4.0).view(1, 1, 1, 4)
    both = [alternating_flip(image, torch.tensor([index]), e, seed)[0, 0, 0, 0].item() for e in (epoch, epoch + 1)]
    assert sorted(both) == [0, 3]


@few
@given(st.integers(1, 500), st.floats(0, 0.999))
def test_the_rate_rises_once_and_falls_once(n_steps, warm_up):
    rates = [lr_schedule(step, n_steps, Stage(warmup=warm_up)) for step in range(n_steps)]
    assert all(0 < rate <= 1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
