"""Codes as packed bytes: bits to bytes and back, hexadecimal text.

Bit j of a code is byte ``j >> 3``, mask ``1 << (j & 7)``, and the bits that pad the last byte are zero. This is the
order of ``faiss.real_to_binary``, so a packed array goes into a faiss binary index as it is.
"""

from __future__ import annotations

import string

import numpy as np
from numpy.typing import NDArray

from drhn_cli.errors import ConfigError, DrhnError

MAX_BITS = 4096


def code_size(n_bits: int) -> int:
    """Return the bytes that a code of ``n_bits`` takes: the bits rounded up to whole bytes.

    Raises:
        ConfigError: ``n_bits`` is not in 1..4096.
    """
    if not 1 <= n_bits <= MAX_BITS:
        raise ConfigError("code length is out of range", expected=f"1..{MAX_BITS} bits", found=str(n_bits))
    return (n_bits + 7) // 8


def padding_mask(n_bits: int) -> int:
    """Return which bits of a code's last byte are padding, 0x00..0xfe."""
    return 0xFF - (0xFF >> (-n_bits % 8))


def check_codes(codes: NDArray[np.uint8], n_bits: int, name: str = "codes") -> None:
    """Refuse an array that is not (n, code_size(n_bits)) uint8.

    Raises:
        ConfigError: ``n_bits`` is out of its range.
        DrhnError: the array has another shape or dtype; the message calls it ``name``.
    """
    size = code_size(n_bits)
    if codes.ndim != 2 or codes.shape[1] != size or codes.dtype != np.uint8:
        expected, found = f"shape (n, {size}) uint8", f"shape {codes.shape} {codes.dtype}"
        raise DrhnError(f"{name} do not hold {n_bits}-bit codes", expected=expected, found=found)


def pack_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack codes, one bit a boolean, into bytes: (n, h) bool, h in 1..4096 -> (n, ceil(h / 8)) uint8.

    Raises:
        DrhnError: ``bits`` is not a two-dimensional boolean array, or h is out of its range.
    """
    if bits.ndim != 2 or bits.dtype != np.bool_:
        raise DrhnError("not an array of bits", expected="shape (n, h) bool", found=f"shape {bits.shape} {bits.dtype}")
    code_size(bits.shape[1])
    return np.packbits(bits, axis=1, bitorder="little")


def unpack_bits(codes: NDArray[np.uint8], n_bits: int) -> NDArray[np.bool_]:
    """Undo ``pack_bits``: (n, code_size(n_bits)) uint8 -> (n, n_bits) bool.

    Raises:
        DrhnError: ``codes`` does not hold codes of ``n_bits``.
    """
    check_codes(codes, n_bits)
    return np.unpackbits(codes, axis=1, count=n_bits, bitorder="little").view(np.bool_)


def format_hex(code: NDArray[np.uint8]) -> str:
    """Return one packed code, (code_size,) uint8, as lower-case hexadecimal text, two digits a byte."""
    return code.tobytes().hex()


def parse_hex(text: str, n_bits: int) -> NDArray[np.uint8]:
    """Undo ``format_hex``, whose digits may be in either case: (code_size(n_bits),) uint8.

    Raises:
        DrhnError: a character is no hexadecimal digit, the text has another length, or a padding bit is set.
    """
    size = code_size(n_bits)
    expected = f"{2 * size} hexadecimal digits for {n_bits} bits"
    foreign = next((c for c in text if c not in string.hexdigits), None)
    if foreign is not None:
        raise DrhnError("not a hexadecimal code", expected=expected, found=repr(foreign))
    if len(text) != 2 * size:
        raise DrhnError("hexadecimal code of another length", expected=expected, found=f"{len(text)} digits")
    code = np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy()
    if code[-1] & padding_mask(n_bits):
        expected = f"{n_bits} bits, so a last byte of at most {0xFF - padding_mask(n_bits):02x}"
        raise DrhnError("hexadecimal code of more bits", expected=expected, found=text[-2:])
    return code
