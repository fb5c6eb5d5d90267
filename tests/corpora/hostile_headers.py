"""Safetensors files that are none, or that say of themselves what is not so: as bytes."""

import json


def packed(table: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a file with this header; ``length`` is what it says of the header's size."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    size = len(text) if length is None else length
    return size.to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, object]:
    """Returns a table of one tensor of eight bytes, with changes."""
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


DATA = b"\0" * 8

HOSTILE_HEADERS: dict[str, bytes] = {
    "empty": b"",
    "seven_bytes": b"\1\0\0\0\0\0\0",
    "only_a_length": (8).to_bytes(8, "little"),
    "header_longer_than_file": packed(one(), DATA, 2**20),
    "header_of_exabytes": packed(one(), DATA, 2**63),
    "header_over_the_limit": packed(b"{}" + b" " * (16 * 2**20)),
    "zeros": b"\0" * 64,
    "pickle": b"\x80\x02}q\x00X\x06\x00\x00\x00" + b"weightq\x01" * 8,
    "no_json": packed(b"{'w': 1}"),
    "no_utf8": packed(b'{"\xff": 1}'),
    "utf16": packed(json.dumps(one()).encode("utf-16"), DATA),
    "list": packed([one()], DATA),
    "null": packed(b"null"),
    "trailing_words": packed(json.dumps(one()).encode() + b"x", DATA),
    "nested_objects": packed(b'{"w":' * 100_000 + b"1" + b"}" * 100_000),
    "nested_lists": packed(b"[" * 500_000 + b"]" * 500_000),
    "number_of_megabytes": packed(b'{"w":' + b"9" * 2**20 + b"}"),
    "same_name_twice": packed(
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        DATA,
    ),
    "same_word_twice": packed(
        b'{"w":{"dtype":"F16","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', DATA
    ),
    "lone_surrogate": packed(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', DATA),
    "metadata_of_numbers": packed({"__metadata__": {"format": 1}, **one()}, DATA),
    "metadata_is_a_list": packed({"__metadata__": [], **one()}, DATA),
    "metadata_of_surrogates": packed(b'{"__metadata__":{"a":"\\udfff"}}'),
    "tensor_is_a_number": packed({"w": 1}),
    "tensor_without_shape": packed({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, DATA),
    "tensor_with_more": packed(one(strides=[1]), DATA),
    "unknown_dtype": packed(one(dtype="F128"), DATA),
    "dtype_is_a_number": packed(one(dtype=32), DATA),
    "shape_negative": packed(one(shape=[-1, -2]), DATA),
    "shape_of_floats": packed(one(shape=[2.0]), DATA),
    "shape_of_bools": packed(one(shape=[True, 2]), DATA),
    "shape_is_words": packed(one(shape="2"), DATA),
    "shape_enormous": packed(one(shape=[2**62, 2**62]), DATA),
    "shape_past_64_bits": packed(one(shape=[2**64]), DATA),
    "nothing_past_64_bits": packed(one(shape=[0, 2**64], data_offsets=[0, 0])),
    "shape_of_many_dimensions": packed(one(shape=[1] * 100_000 + [2]), DATA),
    "bytes_unlike_shape": packed(one(shape=[3]), DATA),
    "bytes_unlike_dtype": packed(one(dtype="F16"), DATA),
    "offsets_backwards": packed(one(data_offsets=[8, 0]), DATA),
    "offsets_negative": packed(one(data_offsets=[-8, 0]), DATA),
    "offsets_of_three": packed(one(data_offsets=[0, 4, 8]), DATA),
    "offsets_past_the_end": packed(one(data_offsets=[0, 8]), DATA[:4]),
    "hole_at_the_start": packed(one(data_offsets=[8, 16]), DATA * 2),
    "hole_between": packed(
        {**one(), "x": {"dtype": "U8", "shape": [1], "data_offsets": [9, 10]}}, DATA + b"ab"
    ),
    "overlap": packed({**one(), "x": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}, DATA),
    "bytes_after_the_last": packed(one(), DATA + b"more"),
    "half_a_byte": packed({"w": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"\0"),
    "too_many_tensors": packed(
        b"{"
        + b",".join(
            b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(2**16 + 1)
        )
        + b"}"
    ),
}
"""Every one must be refused, at once and without memory that its words ask for."""
