"""All numbers below a size in an order that a key chooses, none of them kept in memory.

A Feistel network over the next power of four, walked until it comes back below the size. Source:
J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002), cycle walking. Not
for secrets: for orders that are the same on every machine.
"""

from __future__ import annotations

import hashlib

_ROUNDS = 8


class Shuffle:
    """A permutation of ``range(size)``.

    Args:
        size: How many numbers, at least one.
        key: Any text; the same one gives the same order.
    """

    def __init__(self, size: int, key: str) -> None:
        self._size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._key = hashlib.sha256(key.encode()).digest()

    def __getitem__(self, place: int) -> int:
        """Returns which number is at a place.

        Raises:
            IndexError: There are not so many.
        """
        if not 0 <= place < self._size:
            raise IndexError(place)
        number = self._mixed(place)
        # Four times the size at most, so a few steps; a bijection comes back to where it began.
        while number >= self._size:
            number = self._mixed(number)
        return number

    def _mixed(self, number: int) -> int:
        left, right = number >> self._half, number & self._mask
        width = (self._half + 7) // 8 + 8
        for turn in range(_ROUNDS):
            said = f"{turn} {right}".encode()
            digest = hashlib.blake2b(said, key=self._key, digest_size=min(width, 64)).digest()
            left, right = right, left ^ (int.from_bytes(digest, "big") & self._mask)
        return (left << self._half) | right
