from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drhn_cli.network import blas
from drhn_cli.network import encoder as encoders
from drhn_cli.network.devices import use_one_thread
from drhn_cli.network.encoder import NUMPY_LIMIT, EvenEncoder, load_encoder
from drhn_cli.network.in_threads import ThreadedEncoder
from tests.networks import random_model, tiny_config

WEIGHTS = random_model(tiny_config())
PIXELS = np.random.default_rng(0).integers(0, 256, (67, 16, 16, 3), dtype=np.uint8)


class FirstValue:
    """An encoder whose activation is the first value of a picture; notes what it was asked, and where."""

    model = WEIGHTS

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[tuple[str, int]] = set()

    def activations(self, pixels: np.ndarray) -> np.ndarray:
        self.sizes.append(len(pixels))
        self.threads.add((threading.current_thread().name.rpartition("_")[0], torch.get_num_threads()))
        return pixels[:, 0, 0, :1] / np.float32(255)


@pytest.mark.parametrize("n_images", [70, NUMPY_LIMIT + 1], ids=["numpy", "torch"])
@pytest.mark.parametrize("n", [0, 1, 32, 67])
def test_threads_change_nothing(n: int, n_images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "use_one_thread", lambda: True)
    alone = load_encoder(WEIGHTS, device="cpu", n_images=n_images)
    shared = load_encoder(WEIGHTS, device="cpu", n_images=n_images, n_threads=3)
    assert isinstance(alone, EvenEncoder)
    assert isinstance(shared, ThreadedEncoder)
    np.testing.assert_array_equal(shared.activations(PIXELS[:n]), alone.activations(PIXELS[:n]))
    np.testing.assert_array_equal(shared.codes(PIXELS[:n], 16), alone.codes(PIXELS[:n], 16))
    assert shared.model is WEIGHTS


def test_pictures_are_shared_out_in_order_to_threads_that_are_prepared() -> None:
    inner = FirstValue()
    encoder = ThreadedEncoder(inner, 32, n_threads=2, prepare=use_one_thread)
    np.testing.assert_array_equal(encoder.activations(PIXELS), PIXELS[:, 0, 0, :1] / np.float32(255))
    assert sorted(inner.sizes) == [3, 32, 32]
    assert inner.threads == {("drhn-encode", 1)}


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    encoder = ThreadedEncoder(FirstValue(), 32, n_threads=2, prepare=lambda: None)
    with pytest.raises(IndexError):
        encoder.activations(PIXELS[:, :0])


def test_a_device_of_its_own_gets_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drhn_cli.network.devices.choose_device", lambda _: torch.device("meta"))
    encoder = encoders.load_encoder(WEIGHTS, device="cuda", n_images=1000, batch_size=300, n_threads=2)
    assert isinstance(encoder, EvenEncoder)


def test_openblas_is_told_by_the_name_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(openblas_set_num_threads=told.append))
    assert blas.use_one_thread()
    assert told == [1]


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not blas.use_one_thread()

    def refuse(_: object) -> None:
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert not blas.use_one_thread()
