import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drhn_cli.config import PRESETS, NetworkConfig, Preprocessing
from drhn_cli.errors import ConfigError
from drhn_cli.network.drhn import DRHN
from drhn_cli.network.encode import TorchEncoder
from drhn_cli.network.encoder import NUMPY_LIMIT, load_encoder
from drhn_cli.network.model import Model, load_model
from drhn_cli.network.numpy_backend import NumpyEncoder
from drhn_cli.network.weights_file import halve_filters
from tests.benchmarks.same_codes import Comparison
from tests.drawing import KINDS, draw_picture


def random_model(seed: int = 0, **settings: object) -> Model:
    torch.manual_seed(seed)
    network = DRHN(NetworkConfig(n_classes=4, **settings))  # type: ignore[arg-type]
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            buffer.uniform_(0.5, 1.5)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.3, 0.5)
    arrays = {name: v.numpy() for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    return Model(
        name="random",
        config=network.config,
        preprocessing=Preprocessing(size=network.config.input_size),
        class_names=tuple("abcd"),
        arrays=halve_filters(arrays),
    )


@pytest.mark.parametrize(
    "settings",
    [
        PRESETS["tiny"],
        {**PRESETS["paper"], "blocks": 2, "widths": (4, 4, 8, 8, 16, 16)},
        {**PRESETS["tiny"], "downsample": "stride", "stem_stride": 2, "input_size": 64},
        {**PRESETS["tiny"], "downsample_at": (2, 6), "blocks": 3, "input_size": 16},
        {**PRESETS["tiny"], "hash_norm": False, "threshold": 0.4},
    ],
)
def test_numpy_computes_what_torch_computes(settings: dict[str, object]) -> None:
    weights = random_model(**settings)
    side = weights.config.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (7, side, side, 3), dtype=np.uint8)
    expected = TorchEncoder(weights, torch.device("cpu")).activations(pixels)
    assert expected.std() > 0.01
    np.testing.assert_allclose(NumpyEncoder(weights).activations(pixels), expected, atol=2e-5)


def test_activations_of_two_views_are_their_mean_in_numpy_and_torch() -> None:
    weights = random_model(**PRESETS["tiny"])
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    plain, both = NumpyEncoder(weights), NumpyEncoder(weights.with_views(2))
    expected = (plain.activations(pixels) + plain.activations(pixels[:, :, ::-1])) / 2
    assert np.abs(expected - plain.activations(pixels)).max() > 2e-4
    views = np.concatenate([pixels, pixels[:, :, ::-1]], axis=1)
    np.testing.assert_array_equal(both.activations(views), expected)
    torch_encoder = TorchEncoder(weights.with_views(2), torch.device("cpu"), batch_size=3)
    np.testing.assert_allclose(torch_encoder.activations(views), expected, atol=2e-5)
    assert weights.with_views(2).fingerprint != weights.fingerprint


def test_bits_are_the_same_but_for_activations_at_the_threshold() -> None:
    pixels = np.stack([np.asarray(draw_picture(kind, seed)) for kind in KINDS for seed in range(25)])
    weights = load_model("cifar10").with_views(1)
    comparison = Comparison(weights)
    comparison.add(pixels)
    figures = comparison.to_dict()
    assert (figures["pictures"], figures["bits"]) == (100, 100 * weights.config.bits)
    assert figures["different_beyond_tolerance"] == 0
    assert 0 < figures["largest_difference"] < 1e-4
    assert figures["share_within_tolerance"] < 0.01


def test_bits_that_differ_are_counted_and_told_from_those_at_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = Comparison(random_model(**PRESETS["tiny"]))
    first, second = ([[0.4, 0.6, 0.49995, 0.9]], [[0.6, 0.7, 0.50005, 0.9]])
    fakes = [SimpleNamespace(activations=lambda _, a=a: np.array(a, np.float32)) for a in (first, second)]
    monkeypatch.setattr(comparison, "_encoders", fakes)
    comparison.add(np.zeros((1, 32, 32, 3), np.uint8))
    assert (comparison.n_different, comparison.n_wrong, comparison.n_near) == (2, 1, 1)
    assert comparison.largest_difference == pytest.approx(0.2)


def test_no_pictures_have_no_activations() -> None:
    weights = random_model(**PRESETS["tiny"])
    assert NumpyEncoder(weights).activations(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 48)
    assert NumpyEncoder(weights).codes(np.empty((0, 32, 32, 3), np.uint8), 12).shape == (0, 2)


def test_few_pictures_go_to_numpy_and_many_to_torch() -> None:
    weights = random_model(**PRESETS["tiny"])
    assert isinstance(load_encoder(weights, device="auto", n_images=NUMPY_LIMIT).inner, NumpyEncoder)
    assert isinstance(load_encoder(weights, device="cpu", n_images=NUMPY_LIMIT + 1).inner, TorchEncoder)
    with pytest.raises(ConfigError, match="unknown device"):
        load_encoder(weights, device="abacus", n_images=1)


@pytest.mark.parametrize("n_images", [1, 2, 40, NUMPY_LIMIT + 1])
def test_an_activation_depends_on_its_picture_alone(n_images: int) -> None:
    # A small network: of the bundled ones single pictures, padded to whole chunks, take a minute.
    weights = random_model(blocks=1, widths=(16, 16, 32, 32, 64, 64))
    pixels = np.random.default_rng(0).integers(0, 256, (min(n_images, 40), *weights.preprocessing.shape), np.uint8)
    encoder = load_encoder(weights, device="cpu", n_images=n_images)
    whole = encoder.activations(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    for size in (1, 3, 33):
        parts = [encoder.activations(pixels[order[i : i + size]]) for i in range(0, len(pixels), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[order])


def test_numpy_alone_is_enough() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from drhn_cli.network.encoder import load_encoder\n"
        "from drhn_cli.network.model import load_model\n"
        "weights = load_model(None)\n"
        "encoder = load_encoder(weights, device='cpu', n_images=1)\n"
        "print(encoder.codes(np.zeros((1, *weights.preprocessing.shape), np.uint8), 48).shape)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"(1, 6)\n"
