"""What the program writes today, kept in ``expected``: answers, messages, code files, trained weights, imports.

These tests know the command line alone. ``inputs`` has files of earlier versions: ``tiny.npz`` is a network of 64 bits,
nested 12, 16 and 48, trained for two epochs; ``indexed.bin`` is a code file with an index.

Where a change is meant, write the files anew and read the difference:

    DRHN_GOLDEN_UPDATE=1 python -m pytest tests/golden && git diff tests/golden/expected

Floating-point sums differ between processors, so trained weights are compared to a tolerance, far below what another
random draw changes. To compare to the bit on one machine, name a folder; what it lacks is written, the rest compared:

    DRHN_GOLDEN=/tmp/golden python -m pytest tests/golden
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.golden.pictures import write_pictures
from tests.golden.program import Session

INPUTS = Path(__file__).parent / "inputs"
_NUMBER = re.compile(r"(-?\d+\.\d+(?:e-?\d+)?)")


class Golden:
    """The stored files that results are compared with."""

    def __init__(self) -> None:
        exact = os.environ.get("DRHN_GOLDEN")
        self.is_exact = exact is not None
        self._folder = Path(exact or Path(__file__).parent / "expected").absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._updates = "DRHN_GOLDEN_UPDATE" in os.environ

    def _is_new(self, path: Path) -> bool:
        return self._updates or (self.is_exact and not path.exists())

    def check_text(self, name: str, found: str, tolerance: float = 0.0) -> None:
        """Require the stored text; fractions in it may differ by the tolerance."""
        path = self._folder / name
        if self._is_new(path):
            path.write_text(found, encoding="utf-8")
        expected = path.read_text(encoding="utf-8")
        if tolerance and not self.is_exact:
            assert _NUMBER.sub("NUMBER", found) == _NUMBER.sub("NUMBER", expected)
            numbers = [[float(number) for number in _NUMBER.findall(text)] for text in (found, expected)]
            np.testing.assert_allclose(*numbers, rtol=0, atol=tolerance)
        else:
            assert found == expected

    def check_arrays(self, name: str, found: Mapping[str, NDArray[Any]], tolerance: float) -> None:
        """Require the stored arrays, to a tolerance where they are not compared to the bit."""
        path = self._folder / f"{name}.npz"
        if self._is_new(path):
            kept = found if self.is_exact else {key: array.astype(np.float16) for key, array in found.items()}
            np.savez_compressed(path, **kept)
        with np.load(path) as stored:
            expected = dict(stored)
        assert {key: array.shape for key, array in found.items()} == {key: a.shape for key, a in expected.items()}
        for key, array in found.items():
            if self.is_exact:
                assert (array.dtype, array.tobytes()) == (expected[key].dtype, expected[key].tobytes()), key
            else:
                np.testing.assert_allclose(array, expected[key], rtol=2e-3, atol=tolerance, err_msg=key)


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The program in a folder with ``pictures`` and the weights ``tiny.npz``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    write_pictures()
    shutil.copy(INPUTS / "tiny.npz", ".")
    return Session()


@pytest.fixture
def hashed(session: Session) -> Session:
    """The same with ``codes.bin`` of the pictures."""
    status = Session()("hash pictures pictures/packed.tar -o codes.bin --weights tiny.npz --workers 1 --quiet")
    assert status == 0
    return session
