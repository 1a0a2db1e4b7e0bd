from __future__ import annotations

import io
import os
import re
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drhn_cli.cli.options import read_path_list
from drhn_cli.errors import ConfigError, ImageError
from drhn_cli.evaluation.data import split_validation
from drhn_cli.images import globs
from drhn_cli.images.decode import decode_image
from drhn_cli.images.find import find_images
from drhn_cli.images.globs import compile_excludes
from drhn_cli.images.preprocess import Preprocessing, fit_image
from tests.damage import encode_all
from tests.drawing import draw_picture
from tests.profiles import gray_profile, matrix_profile, print_profile
from tests.tiff import build_tiff

PROFILES = [matrix_profile("p3"), gray_profile(1.8), print_profile()]


def with_profile(profile: bytes, mode: str = "RGB", codec: str = "TIFF") -> bytes:
    stream = io.BytesIO()
    draw_picture("circle", 1, 16).convert(mode).save(stream, codec, icc_profile=profile)
    return stream.getvalue()


PICTURES = [
    *(data for _, data in encode_all()),
    *(
        with_profile(profile, mode, codec)
        for profile, mode in zip(PROFILES, ("RGB", "L", "CMYK"), strict=True)
        for codec in ("TIFF", "JPEG")
    ),
    *(
        build_tiff(4, 2, [bits] * n, photometric, [bytes(range(4 * bits))] * n, planar=2, compression=compression)
        for bits, n, photometric in ((8, 3, 2), (16, 3, 2), (16, 4, 5), (8, 3, 8))
        for compression in (1, 8)
    ),
    *(
        build_tiff(4, 2, [bits], photometric, [bytes(range(4 * bits))], order, form=form)
        for bits, photometric, form in ((16, 0, 1), (32, 1, 1), (32, 1, 3), (32, 0, 3))
        for order in "<>"
    ),
]


def check(data: bytes, rendering: int = 2) -> None:
    try:
        image = decode_image(io.BytesIO(data), max_pixels=1_000_000, rendering=rendering)
    except ImageError as error:
        reason = error.message
    else:
        assert image.mode == "RGB"
        assert fit_image(image, Preprocessing(size=8)).shape == (8, 8, 3)
        return
    assert reason
    assert "\n" not in reason


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(PICTURES)))
    # Headers decide most, and are short: half the changes go there.
    places = st.one_of(st.integers(0, 80), st.integers(0, len(data) - 1))
    values = st.one_of(st.sampled_from((0, 1, 127, 128, 255)), st.integers(0, 255))
    for place, value in draw(st.lists(st.tuples(places, values), max_size=12)):
        data[min(place, len(data) - 1)] = value
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@settings(max_examples=400, deadline=None)
@given(mutated(), st.sampled_from((1, 2)))
def test_a_damaged_picture_is_a_picture_or_an_image_error(data: bytes, rendering: int) -> None:
    check(data, rendering)


@st.composite
def mutated_profiles(draw: st.DrawFn) -> tuple[int, bytes]:
    place = draw(st.integers(0, len(PROFILES) - 1))
    data = bytearray(PROFILES[place])
    places = st.one_of(st.integers(0, 260), st.integers(0, len(data) - 1))
    for at, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[at] = value
    return place, bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@settings(max_examples=200, deadline=None)
@given(mutated_profiles())
def test_no_profile_costs_the_picture(mutated: tuple[int, bytes]) -> None:
    place, profile = mutated
    data = with_profile(profile, ("RGB", "L", "CMYK")[place])
    assert decode_image(io.BytesIO(data), rendering=2).size == (16, 16)
    assert decode_image(io.BytesIO(data), rendering=2, min_side=4).mode == "RGB"


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([data[:20] for data in PICTURES] + [b""]))
def test_noise_is_an_image_error(noise: bytes, start: bytes) -> None:
    check(start + noise)


names = st.binary(min_size=1, max_size=40).filter(lambda name: not {b"/", b"\0"} & {bytes([c]) for c in name})


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(names.filter(lambda name: not name.startswith(b".")), max_size=8))
def test_any_name_is_found_as_it_is(stems: set[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = os.fsencode(os.path.realpath(folder))
        expected = sorted(os.path.join(root, stem + b".jpg") for stem in stems)
        for path in expected:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        assert [file.path for file in find_images([folder]).files] == expected


@given(st.lists(names, max_size=10))
def test_a_nul_separated_list_comes_back_exactly(paths: list[bytes]) -> None:
    assert list(read_path_list(io.BytesIO(b"".join(path + b"\0" for path in paths)), null=True)) == paths


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_glob_compiles(pattern: str, path: str) -> None:
    if pattern.startswith("!"):
        with pytest.raises(ConfigError):
            compile_excludes([pattern])
    else:
        compile_excludes([pattern])(path, True)


glob_texts = st.lists(
    st.sampled_from(["*", "**", "**/", "/**", "/", "a", "b", "?", "[ab]", "[!a]", "[b-a]", "\\*", "."]),
    min_size=1,
    max_size=8,
).map("".join)


@settings(max_examples=500)
@given(glob_texts.filter(lambda glob: not glob.startswith("!")), st.text("ab/*", max_size=10))
def test_globs_of_many_gaps_match_as_those_of_few(pattern: str, path: str) -> None:
    tokens = globs._TOKEN.findall(globs._START.sub("", pattern))
    regex = "".join(map(globs._translate, tokens))
    expected = re.fullmatch(regex, path, re.DOTALL) is not None
    assert globs._Automaton(tokens).matches(path) == expected


@given(st.text("abc.é", min_size=1, max_size=10))
def test_a_glob_without_special_characters_matches_itself(name: str) -> None:
    assert compile_excludes([name])(f"folder/{name}", False)
    assert not compile_excludes([name])(f"folder/{name}x", False)


@given(st.lists(st.integers(0, 5), max_size=60), st.floats(0, 1, exclude_max=True), st.integers(0, 2**32))
def test_a_validation_split_holds_each_picture_once(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels, np.int64)
    train, validation = split_validation(array, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert set(array[train]) == set(labels)
