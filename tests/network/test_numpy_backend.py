import subprocess
import sys

import numpy as np
import pytest
import torch

from drhn_cli.images.preprocess import Preprocessing
from drhn_cli.network.config import Layer, NetworkConfig
from drhn_cli.network.drhn import DRHN, load_torch
from drhn_cli.network.encoder import encode_views
from drhn_cli.network.model import Model
from drhn_cli.network.numpy_backend import load_numpy
from drhn_cli.network.weights_file import halve_filters
from tests.drawing import KINDS, draw_picture
from tests.networks import TINY


class Bottleneck(NetworkConfig):
    """Another trunk: 1x1 convolutions, norms before activations, ReLU6, and a block of two layers."""

    def layers(self) -> list[Layer]:
        usual = {"in_side": 8, "norm_first": True, "activation": "relu6"}
        return [
            Layer(
                conv="stem.conv", norm="stem.norm", in_channels=3, out_channels=6, **{**usual, "in_side": 16}, stride=2
            ),
            Layer(
                conv="expand.conv",
                norm="expand.norm",
                in_channels=6,
                out_channels=24,
                kernel=1,
                opens_block=True,
                **usual,
            ),
            Layer(
                conv="project.conv",
                norm="project.norm",
                in_channels=24,
                out_channels=6,
                kernel=5,
                closes_block=True,
                **{**usual, "activation": "none"},
            ),
        ]


def random_model(
    seed: int = 0, kind: type[NetworkConfig] = NetworkConfig, gain: float | None = None, **settings: object
) -> Model:
    """Return an untrained model; with a gain, filters of that gain for networks that fade in many layers."""
    torch.manual_seed(seed)
    network = DRHN(kind(n_classes=4, **settings))  # type: ignore[arg-type]
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            buffer.uniform_(0.5, 1.5)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.3, 0.5)
        if parameter.ndim == 4 and gain:
            torch.nn.init.normal_(parameter, 0, gain / parameter[0].numel() ** 0.5)
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
        TINY,
        {"downsample_at": (3, 5), "downsample": "stride", "hash_norm": False, "widths": (4, 4, 8, 8, 16, 16)},
        {**TINY, "downsample": "stride", "stem_stride": 2, "input_size": 64},
        {**TINY, "downsample_at": (2, 6), "blocks": 3, "input_size": 16},
        {**TINY, "hash_norm": False, "threshold": 0.4},
        {"kind": Bottleneck, "widths": (6,) * 6, "input_size": 16},
    ],
)
def test_numpy_computes_what_torch_computes(settings: dict[str, object]) -> None:
    weights = random_model(**settings)
    side = weights.config.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (7, side, side, 3), dtype=np.uint8)
    expected = encode_views(load_torch(weights, torch.device("cpu")), pixels)
    assert expected.std() > 0.01
    np.testing.assert_allclose(encode_views(load_numpy(weights), pixels, 4), expected, atol=2e-5)


@pytest.mark.parametrize("unit_features", [False, True])
@pytest.mark.parametrize(
    ("trunk", "side", "gain"),
    [("efficientnet-lite0", 32, 2.5), ("efficientnet-lite2", 51, 2.5), ("residual", 32, None)],
)
def test_numpy_pools_the_features_that_torch_pools(
    trunk: str, side: int, gain: float | None, unit_features: bool
) -> None:
    weights = random_model(trunk=trunk, input_size=side, unit_features=unit_features, gain=gain)
    pixels = np.stack([np.asarray(draw_picture(kind, seed, side)) for kind in KINDS for seed in range(2)])
    expected = load_torch(weights, torch.device("cpu"), features=True)(pixels)
    assert expected.shape == (8, weights.config.n_features)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(lengths, 1, atol=1e-5) == unit_features
    assert (expected / lengths.mean()).std(axis=0).max() > 0.001  # features tell pictures apart
    found = load_numpy(weights, features=True)(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    network = load_torch(weights, torch.device("cpu"))
    np.testing.assert_allclose(load_numpy(weights)(pixels), network(pixels), atol=1e-4)


def test_activations_of_two_views_are_their_mean_in_numpy_and_torch() -> None:
    weights = random_model(**TINY)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    backend = load_numpy(weights)
    plain, mirrored = (encode_views(backend, images, 4) for images in (pixels, pixels[:, :, ::-1]))
    expected = (plain + mirrored) / 2
    assert np.abs(expected - plain).max() > 2e-4
    views = np.concatenate([pixels, pixels[:, :, ::-1]], axis=1)
    np.testing.assert_array_equal(encode_views(backend, views, 4), expected)
    np.testing.assert_allclose(encode_views(load_torch(weights, torch.device("cpu")), views, 3), expected, atol=2e-5)
    assert weights.with_views(2).fingerprint != weights.fingerprint


def test_numpy_alone_is_enough() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from drhn_cli.network.encoder import Encoder\n"
        "from drhn_cli.network.model import load_model\n"
        "weights = load_model(None)\n"
        "encoder = Encoder(weights, device='cpu')\n"
        "print(encoder.codes(np.zeros((1, *weights.preprocessing.shape), np.uint8), 48).shape)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout == b"(1, 6)\n"
