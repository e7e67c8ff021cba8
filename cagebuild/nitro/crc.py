"""CRC-32 of a concatenation from the CRCs of its parts.

A file's header can then be written last without reading the rest again. The arithmetic is that of
polynomials over GF(2), reflected as CRC-32 (IEEE 802.3) is: appending n zero bytes multiplies the
register by x^(8n).
"""

from __future__ import annotations

_POLYNOMIAL = 0xEDB8_8320
_ONE = 0x8000_0000  # x^0


def _multiply(a: int, b: int) -> int:
    """a · b modulo the polynomial; bit 31 is the coefficient of x^0."""
    product = 0
    mask = _ONE
    while mask:
        if a & mask:
            product ^= b
        mask >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
    return product


def combine(first: int, second: int, length: int) -> int:
    """CRC-32 of A‖B from those of A and of B, where B has ``length`` bytes."""
    power = _ONE >> 8  # x^8: one byte
    shift = _ONE
    while length:
        if length & 1:
            shift = _multiply(shift, power)
        power = _multiply(power, power)
        length >>= 1
    return _multiply(shift, first) ^ second
