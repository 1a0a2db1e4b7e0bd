import numpy as np
import pytest

from drhn_cli.codes.pack import code_size, format_hex, pack_bits, parse_hex, unpack_bits
from drhn_cli.errors import ConfigError, DrhnError


@pytest.mark.parametrize(("n_bits", "size"), [(1, 1), (7, 1), (8, 1), (9, 2), (48, 6), (4096, 512)])
def test_code_size_rounds_up_to_bytes(n_bits, size):
    assert code_size(n_bits) == size


@pytest.mark.parametrize("n_bits", [0, -1, 4097])
def test_code_size_refuses_other_lengths(n_bits):
    with pytest.raises(ConfigError, match=r"expected 1\.\.4096 bits"):
        code_size(n_bits)


def test_bit_order_is_little_and_padding_is_zero():
    bits = np.zeros((1, 12), dtype=bool)
    bits[0, [0, 3, 11]] = True
    assert pack_bits(bits).tolist() == [[0b1001, 0b1000]]


def test_bit_order_is_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    bits = np.random.default_rng(0).random((5, 48)) < 0.5
    packed = np.empty((5, 6), dtype=np.uint8)
    faiss.real_to_binary(bits.size, faiss.swig_ptr(bits.astype(np.float32) - 0.5), faiss.swig_ptr(packed))
    assert (pack_bits(bits) == packed).all()


@pytest.mark.parametrize("bits", [np.zeros(8, bool), np.zeros((1, 8), np.uint8), np.zeros((1, 0), bool)])
def test_pack_bits_refuses_other_arrays(bits):
    with pytest.raises(DrhnError):
        pack_bits(bits)


@pytest.mark.parametrize("codes", [np.zeros(2, np.uint8), np.zeros((1, 2), np.int8), np.zeros((1, 3), np.uint8)])
def test_unpack_bits_refuses_other_arrays(codes):
    with pytest.raises(DrhnError, match=r"expected shape \(n, 2\) uint8, found shape"):
        unpack_bits(codes, 12)


def test_hex_is_two_digits_a_byte():
    code = np.array([0x01, 0xAB], dtype=np.uint8)
    assert format_hex(code) == "01ab"
    assert parse_hex("01AB", 16).tolist() == [0x01, 0xAB]


def test_parsed_code_can_be_written_to():
    assert parse_hex("ff", 8).flags.writeable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 4 hexadecimal digits for 12 bits, found 0 digits"),
        ("abc", "found 3 digits"),
        ("aa0000", "found 6 digits"),
        ("zz00", "found 'z'"),
        ("a a0", "found ' '"),
        ("0x10", "found 'x'"),
        ("aa10", "a last byte of at most 0f, found 10"),
    ],
)
def test_parse_hex_names_what_is_wrong(text, message):
    with pytest.raises(DrhnError) as caught:
        parse_hex(text, 12)
    assert message in str(caught.value)
