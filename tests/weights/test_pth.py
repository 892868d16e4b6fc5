"""The .pth reader: PyTorch's own files, files of Python 2 written by hand, and hostile ones."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickles import (
    MAGIC,
    SIX,
    WINDOW,
    legacy,
    numbers,
    one,
    python2_text,
    state_dict,
    storage,
    tensor,
    text,
    zipped,
)

from minidl.errors import WeightsError
from minidl.weights import pickle_reader
from minidl.weights.pth import read_pth


@pytest.fixture
def read(tmp_path):
    def read_bytes(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return read_pth(path)

    return read_bytes


forms = pytest.mark.parametrize("form", [legacy, zipped])


# Good files.


@forms
def test_one_tensor(read, form):
    arrays = read(one(form))
    assert list(arrays) == ["w"]
    assert arrays["w"].dtype == np.float32
    np.testing.assert_array_equal(arrays["w"], SIX.reshape(2, 3))


@forms
def test_transposed_tensor(read, form):
    arrays = read(one(form, shape=(3, 2), strides=(1, 3)))
    np.testing.assert_array_equal(arrays["w"], SIX.reshape(2, 3).T)


@forms
def test_part_of_a_storage_and_odd_strides_of_short_axes(read, form):
    arrays = read(one(form, shape=(1, 4), strides=(10**30, 1), offset=2))
    np.testing.assert_array_equal(arrays["w"], SIX[None, 2:])


def test_stream_of_python_2(read):
    """Strings of bytes, `_rebuild_tensor`, and an OrderedDict that gets its items as a list of lists."""
    stored = storage(window=WINDOW, string=python2_text)
    pair = b"](" + python2_text("w") + tensor(stored, build="_rebuild_tensor") + b"e"
    tree = b"ccollections\nOrderedDict\n](" + pair + b"e\x85R"
    np.testing.assert_array_equal(read(legacy(tree, {"0": SIX}))["w"], SIX.reshape(2, 3))


@forms
def test_checkpoint(read, form):
    """A state dict beside other things, and tensors of an optimizer that are not read."""
    stored = storage(window=WINDOW if form is legacy else b"")
    state = state_dict({"w": tensor(stored)})
    tree = b"}(" + text("epoch") + b"K\x03" + text("lr") + b"G" + struct.pack(">d", 0.1)
    tree += text("state_dict") + state + text("optimizer") + b"}" + text("buffers") + tensor(stored) + b"su"
    assert list(read(form(tree, {"0": SIX}))) == ["w"]


@forms
def test_shared_storage_is_read_once(read, form):
    stored = storage(window=WINDOW if form is legacy else b"")
    arrays = read(form(state_dict({"a": tensor(stored), "b": tensor(stored)}), {"0": SIX}))
    assert np.shares_memory(arrays["a"], arrays["b"])


# Files that are refused.


@forms
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": 1}, r"shape \(2, 3\) does not fit into its storage of 6 elements"),
        ({"shape": (3, 3)}, r"does not fit into its storage of 6"),
        ({"shape": (10**9,), "strides": (0,)}, r"strides \(0\) is not one block of memory"),
        ({"shape": (2, 2), "strides": (1, 1)}, r"is not one block of memory"),
        ({"shape": (2, 2), "strides": (3, 1)}, r"is not one block of memory.*tensor\.clone"),
        ({"shape": (0, 3)}, r"is not one block of memory"),
        ({"shape": (2, 3), "strides": (1,)}, r"one of its tensors is damaged"),
        ({"shape": (-2, -3)}, r"one of its tensors is damaged"),
        ({"offset": -1}, r"one of its tensors is damaged"),
        ({"shape": (1,) * 40, "strides": (1,) * 40}, r"one of its tensors is damaged"),
        ({"shape": (256**250,), "strides": (1,)}, r"shape \(…\) does not fit"),
    ],
)
def test_view_outside_its_storage(read, form, options, message):
    with pytest.raises(WeightsError, match=message):
        read(one(form, **options))


@forms
@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (b"cposix\nsystem\n" + text("touch hacked") + b"\x85R", r"posix\.system"),
        (b"c__builtin__\neval\n" + text("1") + b"\x85R", r"__builtin__\.eval"),
        (b"ctorch.storage\n_load_from_bytes\n" + text("") + b"\x85R", r"torch\.storage\._load_from_bytes"),
        (b"ccollections\nOrderedDict.fromkeys\n", r"collections\.OrderedDict\.fromkeys"),
    ],
)
def test_foreign_functions(read, form, tree, name):
    with pytest.raises(WeightsError, match=rf"its pickle asks for '{name}'.*Save the state dict alone"):
        read(form(tree, {}))


@pytest.mark.parametrize("start", [MAGIC[:-1] + b"cposix\nsystem\n", b"cposix\nsystem\n"])
def test_foreign_function_in_the_head_of_a_stream(read, start):
    with pytest.raises(WeightsError, match=r"asks for 'posix\.system'|not a file written by torch"):
        read(start + text("touch hacked") + b"\x85R.")


@forms
@pytest.mark.parametrize(
    "opcode",
    [b"\x93", b"\x81", b"\x92", b"i", b"o", b"\x82\x01", b"P0\n", b"I1\n", b"2", b"0", b"\x8c\x01a", b"\x94"],
)
def test_other_instructions(read, form, opcode):
    with pytest.raises(WeightsError, match=r"instruction .* which no state dict needs"):
        read(form(b"N" + opcode, {}))


@forms
@pytest.mark.parametrize(
    "tree",
    [
        b"",
        b"R",
        b"t",
        b"NN",
        b"h\x05",
        b"q\x00",
        b"Ns",
        b"Na",
        b"}Nu",
        b"}(Ku",
        b"N)R",
        b"}()Nu",  # a tuple as the key of a dict
        b"ctorch\nFloatStorage\n)R",
        b"ccollections\nOrderedDict\nK\x01\x85R",
        b"ctorch._utils\n_rebuild_tensor\n)R",
        b"X\x02\x00\x00\x00\xff\xff",
        b"X\xff\xff\xff\xff",
        b"Q",
        b"NQ",
    ],
)
def test_broken_programs(read, form, tree):
    with pytest.raises(WeightsError):
        read(form(tree, {}))


@forms
@pytest.mark.parametrize("tree", [b"N", b"}", b"](N" + b"e", b"}" + text("w") + b"K\x01s"])
def test_no_state_dict(read, form, tree):
    with pytest.raises(WeightsError, match="it holds no state dict"):
        read(form(tree, {}))


@forms
@pytest.mark.parametrize("opcode", [b"(", b"}", b"]", b"N"])
def test_endless_program(read, form, opcode, monkeypatch):
    assert pickle_reader.MAX_PROGRAM <= 1 << 20
    monkeypatch.setattr(pickle_reader, "MAX_PROGRAM", 50_000)
    program = form(opcode * 1_000_000, {})
    tracemalloc.start()
    with pytest.raises(WeightsError, match="longer than 50,000 bytes"):
        read(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000 * 150


def pairs(count):
    """A list of `count` items [name, 0] in memo 1, OrderedDict in memo 0."""
    items = b"".join(b"](" + text(str(i)) + b"K\0e" for i in range(count))
    return b"ccollections\nOrderedDict\nq\0](" + items + b"eq\1"


@forms
@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (pairs(1000) + b"\x85q\2" + b"h\0h\2R" * 5000, "longer than 50,000 bytes"),
        (b"ccollections\nOrderedDict\n](q\1" + b"h\1" * 10_000 + b"e\x85R", "damaged"),
    ],
    ids=["the same list again and again", "a list of itself"],
)
def test_a_short_program_makes_nothing_large(read, form, tree, message, monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_PROGRAM", 50_000)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=message):
        read(form(tree, {}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000 * 150


@forms
def test_deep_nesting(read, form):
    with pytest.raises(WeightsError, match="it holds no state dict"):
        read(form(b")" + b"\x85" * 200_000, {}))


@forms
@pytest.mark.parametrize("numel", [10**12, 256**200])
def test_declared_size_beyond_the_file(read, form, numel):
    stored = storage(numel=numel, window=WINDOW if form is legacy else b"")
    with pytest.raises(WeightsError, match=r"is cut short|has another size"):
        read(one(form, stored, shape=(numel,), strides=(1,)))


@forms
def test_unknown_storages(read, form):
    for stored in [storage(numel=-1), storage(window=numbers([0, 6])), b"(" + text("module") + b"NNNtQ"]:
        with pytest.raises(WeightsError, match="refers to a storage in an unknown way"):
            read(one(form, stored))


@forms
def test_two_opinions_on_one_storage(read, form):
    window = WINDOW if form is legacy else b""
    tensors = {"a": tensor(storage(window=window)), "b": tensor(storage(kind="Long", numel=3, window=window))}
    with pytest.raises(WeightsError, match="refers to a storage in an unknown way"):
        read(form(state_dict(tensors), {"0": SIX}))


def test_big_endian(read):
    with pytest.raises(WeightsError, match="written on a big-endian machine"):
        read(legacy(state_dict({"w": tensor(storage())}), {"0": SIX}, little_endian=False))
    with pytest.raises(WeightsError, match="written on a big-endian machine"):
        read(zipped(state_dict({"w": tensor(storage())}), {"0": SIX}, [("m/byteorder", b"big")]))


def test_other_bytes_behind_the_end(read):
    tree = state_dict({"w": tensor(storage())})
    with pytest.raises(WeightsError, match=r"has bytes behind its end: \d+ bytes expected, \d+ found"):
        read(legacy(tree, {"0": SIX}, tail=b"?"))
    with pytest.raises(WeightsError, match="behind the end of the zip file"):
        read(zipped(tree, {"0": SIX}) + b"?")
    with pytest.raises(WeightsError, match="behind the end of its pickle"):
        read(zipped(tree + b".N", {"0": SIX}))


def test_list_of_storages(read):
    tree = state_dict({"w": tensor(storage())})
    with pytest.raises(WeightsError, match="its list of storages is not that of its tensors"):
        read(legacy(tree, {"1": SIX}))
    wrong_count = legacy(tree, {"0": SIX}).replace(struct.pack("<q", 6), struct.pack("<q", 7))
    with pytest.raises(WeightsError, match="storage '0' has 7 elements"):
        read(wrong_count)


def test_zip_bomb(read):
    zeros = np.zeros(10_000_000, np.float32)
    tree = state_dict({"w": tensor(storage(numel=len(zeros)), shape=(len(zeros),), strides=(1,))})
    with pytest.raises(WeightsError, match=r"its entry 'm/data\.pkl' is compressed"):
        read(zipped(tree, {"0": zeros}, compression=zipfile.ZIP_DEFLATED))


def test_overlapping_zip_entries(read):
    """A second entry of the directory is pointed at the data of the first."""
    big = np.zeros(1000, np.float32)
    data = zipped(state_dict({"w": tensor(storage())}), {"0": SIX, "1": big})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        directory = data[archive.start_dir : -22]
    copies = directory + directory[directory.rindex(b"PK\x01\x02") :].replace(b"m/data/1", b"m/data/2")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 4, 4, len(copies), len(data) - len(directory) - 22, 0)
    with pytest.raises(WeightsError, match=r"overlap|Overlap"):
        read(data[: -22 - len(directory)] + copies + end)


def test_zip_of_something_else(read):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(WeightsError, match=r"no data\.pkl.*model\.save_weights"):
        read(buffer.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(read):
    with pytest.raises(WeightsError, match="two entries of the zip file have the same name"):
        read(zipped(state_dict({"w": tensor(storage())}), {"0": SIX}, [("m/data/0", SIX.tobytes())]))


def test_entry_names_lead_nowhere(read, tmp_path):
    """A key with ".." is only a name to look up among the entries."""
    (tmp_path / "secret").write_bytes(SIX.tobytes())
    with pytest.raises(WeightsError, match=r"storage '\.\./\.\./secret' is missing"):
        read(one(zipped, storage(key="../../secret")))


def test_not_such_a_file(read, tmp_path):
    for data in (b"", b"PK", b"GIF89a", MAGIC[:8]):
        with pytest.raises(WeightsError, match=r"weights\.pth: not a file written by torch\.save"):
            read(data)
    with pytest.raises(WeightsError, match=r"nothing\.pth: No such file"):
        read_pth(tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match=r"Is a directory"):
        read_pth(tmp_path)


@forms
def test_every_truncation(read, form):
    data = one(form)
    for size in range(len(data)):
        with pytest.raises(WeightsError):
            read(data[:size])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_damage(tmp_path_factory, data):
    """Flipped bytes either leave a readable file or raise a WeightsError, and allocate little."""
    damaged = bytearray(one(data.draw(st.sampled_from([legacy, zipped]))))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(damaged)
    tracemalloc.start()
    try:
        read_pth(path)
    except WeightsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10e6


# PyTorch's own files.


@pytest.mark.parity
@pytest.mark.parametrize("zip_form", [True, False])
def test_reads_what_torch_writes(tmp_path, zip_form):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5))
    state = model.state_dict()
    dtypes = ["float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    state |= {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in dtypes}
    base = torch.randn(4, 6)
    state |= {"whole": base, "rows": base[1:3], "turned": base.t(), "number": torch.tensor(3.0)}
    state["parameter"] = torch.nn.Parameter(torch.ones(3))
    path = tmp_path / "model.pth"
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=zip_form)
    arrays = read_pth(path)
    assert list(arrays) == list(state)
    for name, expected in state.items():
        assert arrays[name].dtype == expected.detach().numpy().dtype
        np.testing.assert_array_equal(arrays[name], expected.detach().numpy())

    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, path)
    assert list(read_pth(path)) == list(model.state_dict())


@pytest.mark.parity
def test_whole_pickled_models_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for zip_form in (True, False):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pth", _use_new_zipfile_serialization=zip_form)
        with pytest.raises(WeightsError, match=r"asks for 'torch\.nn|instruction|unknown way"):
            read_pth(tmp_path / "m.pth")
