"""A pickle assembler, the instructions of protocol 2 by hand; and .pth files made with it, of both forms."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
DICT = b"ccollections\nOrderedDict\n)R"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def python2_text(value):
    return b"U" + bytes([len(value)]) + value.encode()


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key="0", kind="Float", numel=6, window=b"", string=text):
    reference = string("storage") + f"ctorch\n{kind}Storage\n".encode() + string(key) + string("cpu")
    return b"(" + reference + integer(numel) + window + b"tQ"


def tensor(stored, shape=(2, 3), strides=(3, 1), offset=0, build="_rebuild_tensor_v2"):
    rest = b"\x89" + DICT if build.endswith("v2") else b""
    arguments = stored + integer(offset) + numbers(shape) + numbers(strides) + rest
    return f"ctorch._utils\n{build}\n(".encode() + arguments + b"tR"


def state_dict(tensors, string=text):
    return DICT + b"(" + b"".join(string(name) + item for name, item in tensors.items()) + b"u"


def program(body):
    return b"\x80\x02" + body + b"."


def system(little_endian=True):
    flag = b"\x88" if little_endian else b"\x89"
    return program(b"}(" + text("little_endian") + flag + text("protocol_version") + b"M\xe9\x03u")


def legacy(tree, storages, tail=b"", little_endian=True):
    keys = program(b"](" + b"".join(map(text, storages)) + b"e")
    data = b"".join(struct.pack("<q", len(array)) + array.tobytes() for array in storages.values())
    return MAGIC + PROTOCOL + system(little_endian) + program(tree) + keys + data + tail


def zipped(tree, storages, extra=(), compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("m/data.pkl", program(tree))
        for key, array in storages.items():
            archive.writestr(f"m/data/{key}", array.tobytes())
        for name, data in extra:
            archive.writestr(name, data)
    return buffer.getvalue()


SIX = np.arange(6, dtype=np.float32)
WINDOW = b"N"  # the sixth item of a legacy reference


def one(form, stored=None, **options):
    """A file with the one tensor "w" over the storage `SIX`."""
    stored = storage(window=WINDOW if form is legacy else b"") if stored is None else stored
    return form(state_dict({"w": tensor(stored, **options)}), {"0": SIX})
