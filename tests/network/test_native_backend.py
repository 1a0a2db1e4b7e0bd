import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from drhn_cli import native
from drhn_cli.native.build import FLAGS, SOURCES, compile_library
from drhn_cli.network.native_backend import KERNELS, NativeTrunk, load_native
from drhn_cli.network.numpy_backend import load_integer_trunk
from drhn_cli.network.quantize import quantize
from tests.conftest import CHECKOUT
from tests.network.integer_reference import sums_of_layers
from tests.network.random_layers import random_layers
from tests.networks import lite_config, random_model, tiny_config

NETWORKS = {
    "channels that 16 does not divide": tiny_config(widths=(3, 5, 17, 33, 34, 50), blocks=2),
    "two blocks of channels": tiny_config(widths=(48, 80, 96, 112, 144, 208), downsample_at=(2, 4)),
    "the paper's": tiny_config(
        downsample="stride", downsample_at=(3, 5), widths=(16, 16, 32, 32, 64, 64), input_size=32
    ),
    "a stem of stride 2": tiny_config(stem_stride=2, input_size=32, widths=(96, 96, 192, 192, 384, 384)),
    "to one pixel": tiny_config(input_size=8),
    **{f"lite0 of {side} pixels": lite_config(0, input_size=side) for side in (32, 33, 65)},
    "lite1 of 47 pixels": lite_config(1, input_size=47),
    "lite2 of 107 pixels": lite_config(2, input_size=107),
}

# Under AddressSanitizer, whose library must be loaded before Python's.
SANITIZED = """
import ctypes, sys
import numpy as np
from drhn_cli.network.native_backend import KERNELS, NativeTrunk
from tests.network.integer_reference import sums_of_layers
from tests.network.random_layers import random_layers
from tests.networks import lite_config, tiny_config

library = ctypes.CDLL(sys.argv[1])
beyond = sys.argv[2:] == ["beyond"]
odd = [tiny_config(widths=(3, 5, 17, 33, 34, 50)), lite_config(0, input_size=33), lite_config(0, input_size=39)]
for config in odd:
    layers = random_layers(config)
    views = np.random.default_rng(0).integers(0, 256, (1, config.input_size, config.input_size, 3), np.uint8)
    expected = sums_of_layers(layers, views)
    for kernel in filter(library.drhn_int8_can_run, range(len(KERNELS))):
        trunk = NativeTrunk(library, layers, kernel=kernel)
        trunk._network.n_features += beyond
        assert np.array_equal(trunk(views), expected), KERNELS[kernel]
print("clean")
"""


@pytest.fixture(params=range(len(KERNELS)), ids=KERNELS)
def kernel(request, native_library):
    """Each kernel in turn that this processor has the instructions for."""
    if not native.open_library(native_library).drhn_int8_can_run(request.param):
        pytest.skip("this processor does not have the instructions")
    return request.param


@pytest.fixture
def load(native_library, kernel):
    return lambda layers: NativeTrunk(native.open_library(native_library), layers, kernel=kernel)


def pictures(side, n=2):
    noise = np.random.default_rng(side).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return np.concatenate([noise, np.full_like(noise[:1], 255)])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kernel_computes_what_int64_does(load, name):
    config = NETWORKS[name]
    layers = random_layers(config)
    views = pictures(config.input_size)
    expected = sums_of_layers(layers, views)
    assert (expected[0] != expected[1]).mean() > 0.3  # so the pictures make a difference
    trunk = load(layers)
    assert np.array_equal(trunk(views), expected)
    for n in (0, 1, 2):
        assert np.array_equal(trunk(views[:n]), expected[:n])


def test_pairs_of_weights_and_activations_at_their_limits(load):
    """127 and 1, 64 and 64 times 255 fill the 16 bits in which AVX2 adds two products."""
    for config in (tiny_config(), lite_config(0)):
        layers = random_layers(config)
        for one in layers:
            signs = np.where(np.arange(len(one.weight)) % 3, 1, -1).reshape(-1, 1, 1, 1)
            for place, values in ((0, (127, 1)), (1, (64, 64))):
                rows = one.weight.reshape(len(one.weight), one.layer.kernel, -1)
                paired = one.weight.swapaxes(1, 3) if one.layer.groups > 1 else rows  # by rows, or along a row
                paired[place::2, ..., 0 : paired.shape[-1] // 2 * 2 : 2] = values[0]
                paired[place::2, ..., 1 : paired.shape[-1] // 2 * 2 : 2] = values[1]
            one.weight[:] = one.weight * signs
        views = np.full((1, config.input_size, config.input_size, 3), 255, np.uint8)
        assert np.array_equal(load(layers)(views), sums_of_layers(layers, views))


@pytest.fixture(scope="module")
def sanitized(native_library, tmp_path_factory):
    """The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and the library that must be loaded first."""
    if not any(map(native.open_library(native_library).drhn_int8_can_run, range(len(KERNELS)))):
        pytest.skip("this processor has no kernel")
    path = tmp_path_factory.mktemp("sanitized") / "library.so"
    flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")  # -O1 takes four times as long
    command = [os.environ.get("CC") or "cc", "-print-file-name=libasan.so"]
    named = subprocess.run(command, capture_output=True, text=True, check=False)
    if compile_library([CHECKOUT / SOURCES[1]], path, (*FLAGS, *flags)) or not os.path.isabs(named.stdout):
        pytest.skip("the compiler has no sanitizers")
    return path, named.stdout.strip()


@pytest.mark.parametrize("beyond", [False, True])
def test_nothing_is_read_or_written_beyond_an_array(sanitized, beyond):
    path, preloaded = sanitized
    environment = {"LD_PRELOAD": preloaded, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, path, *["beyond"] * beyond],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout == "clean\n" and done.returncode == 0) is not beyond, done.stderr
    assert ("heap-buffer-overflow" in done.stderr) is beyond  # to be sure that writing on would have been seen


def test_only_avx2_needs_the_limit_of_pairs(load, kernel):
    layers = random_layers(lite_config(0), are_pairs_limited=False)
    views = pictures(32)
    is_equal = np.array_equal(load(layers)(views), sums_of_layers(layers, views))
    assert is_equal is (KERNELS[kernel] != "AVX2")


def test_threads_share_a_trunk(load):
    config = lite_config(0, input_size=64)
    layers = random_layers(config)
    views = pictures(64, n=40)
    trunk = load(layers)
    expected = trunk(views)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(trunk, np.split(views, len(views))))
    assert np.array_equal(np.concatenate(found), expected)
    assert len(trunk._spare) <= 4


def test_views_of_another_size_are_refused(load):
    with pytest.raises(ValueError, match="reshape"):
        load(random_layers(tiny_config()))(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("config", [tiny_config(), lite_config(2, input_size=47)], ids=["residual", "lite2"])
def test_a_model_has_the_sums_of_numpy(native_library, monkeypatch, config):
    monkeypatch.setattr(native, "LIBRARY", native_library)
    monkeypatch.delenv("DRHN_NATIVE", raising=False)
    views = pictures(config.input_size, n=4)
    model = quantize(random_model(config), views)
    pooled = load_native(model)
    if pooled is None:
        pytest.skip("this processor has no kernel")
    assert np.array_equal(pooled(views), load_integer_trunk(model)(views))


def test_without_a_library_or_a_kernel_there_is_no_trunk(native_library, monkeypatch):
    model = quantize(random_model(), pictures(16))
    monkeypatch.setattr(native, "LIBRARY", native_library)
    monkeypatch.setattr(native.open_library(native_library), "drhn_int8_best_kernel", lambda: -1)
    assert load_native(model) is None
    monkeypatch.setenv("DRHN_NATIVE", "0")
    assert load_native(model) is None
