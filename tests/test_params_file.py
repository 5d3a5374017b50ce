"""Reading and writing `.params` files: every version, byte equality, damaged and hostile files."""

from __future__ import annotations

import os
import random
import stat
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tconv.dtypes import bfloat16
from tconv.errors import DTypeError, FormatError, MXNetError, OutOfMemoryError, ParameterError, ShapeError
from tconv.formats import files, params_file

GOLDEN = Path(__file__).parent / "golden"
TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
PLACE = struct.pack("<iii", 1, 0, 0)


def counting(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def container(*records: bytes, names: bytes = bytes(8), magic: int = 0x112, count: int | None = None) -> bytes:
    return struct.pack("<QQQ", magic, 0, len(records) if count is None else count) + b"".join(records) + names


def record(*sizes: int, magic: int = V2, rank: int | None = None, storage: int = 0, code: int = 0) -> bytes:
    rank = len(sizes) if rank is None else rank
    return struct.pack(f"<Iii{len(sizes)}qiii", magic, storage, rank, *sizes, 1, 0, code)


def assert_same(got: list[Any], want: list[Any]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want):
        if other is None:
            assert one is None
        else:
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("file", "arrays", "names"),
    [
        ("mxnet_1.9.1_types", [counting(2, 3, dtype=t) for t in TYPES], list(TYPES)),
        (
            "mxnet_1.9.1_names",
            [counting(2, 1, 3, 2), counting(3), counting(1), counting(2, 2)],
            ["arg:up_weight", "aux:mean", "", '重み "é"'],
        ),
        ("mxnet_1.9.1_list", [counting(2, 3), counting(4, dtype="int64")], []),
        ("mxnet_1.9.1_empty", [], []),
    ],
)
def test_golden_files_of_1_9_1_load_and_are_written_alike(file: str, arrays: list[Any], names: list[str]) -> None:
    path = GOLDEN / f"{file}.params"
    found, found_names = params_file.load(path)
    assert_same(found, arrays)
    assert found_names == names
    assert params_file.dump(arrays, names) == path.read_bytes()


def test_golden_file_with_record_versions_0_1_and_2() -> None:
    arrays, names = params_file.load(GOLDEN / "record_versions.params")
    assert_same(arrays, [counting(2, 3)] * 3)
    assert names == ["v0", "v1", "v2_gpu"]


def test_arrays_own_writable_memory() -> None:
    arrays, _ = params_file.load(GOLDEN / "mxnet_1.9.1_types.params")
    for array in arrays:
        assert array is not None
        assert array.flags.owndata
        assert array.flags.writeable
        assert array.dtype.isnative


@given(
    st.lists(
        st.one_of(
            st.none(),
            hnp.arrays(
                st.sampled_from([np.dtype(t).newbyteorder(order) for t in TYPES for order in "<>"]),
                hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4),
            ),
        ),
        max_size=4,
    ),
    st.data(),
)
def test_round_trip(arrays: list[Any], data: st.DataObject) -> None:
    names = data.draw(st.one_of(st.just([]), st.lists(st.text(), min_size=len(arrays), max_size=len(arrays))))
    found, found_names = params_file.loads(params_file.dump(arrays, names))
    assert found_names == names
    assert_same(found, [a if a is None else a.astype(a.dtype.newbyteorder("=")) for a in arrays])


def test_bfloat16_has_number_12() -> None:
    pytest.importorskip("ml_dtypes")
    array = counting(2, 3).astype(bfloat16())
    content = params_file.dump([array.T])
    assert struct.unpack_from("<i", content, 24 + 12 + 16 + 8) == (12,)
    assert_same(params_file.loads(content)[0], [np.ascontiguousarray(array.T)])


def test_without_ml_dtypes_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tconv.dtypes.bfloat16", lambda: None)
    with pytest.raises(FormatError, match=r"array 0: dtype: got 'bfloat16'; it needs the package ml_dtypes"):
        params_file.loads(container(record(2, code=12) + bytes(4)))


def test_transposed_array_is_written_in_c_order() -> None:
    array = counting(3, 4)
    assert_same(params_file.loads(params_file.dump([array.T]))[0], [np.ascontiguousarray(array.T)])


def test_truth_values_beyond_1_are_true() -> None:
    (array,), _ = params_file.loads(container(record(3, code=7) + bytes([0, 2, 255])))
    assert array is not None
    assert array.tobytes() == bytes([0, 1, 1])


@pytest.mark.parametrize(
    "rank_0",
    [struct.pack("<I", 0), struct.pack("<Ii", V1, 0), struct.pack("<Iii", V2, 0, 0)],
    ids=["v0", "v1", "v2"],
)
def test_rank_0_record_holds_no_array(rank_0: bytes) -> None:
    arrays, _ = params_file.loads(container(rank_0, record(1) + bytes(4)))
    assert_same(arrays, [None, np.zeros(1, np.float32)])


@pytest.mark.parametrize(
    "empty",
    [struct.pack("<III", 2, 0, 3) + PLACE, struct.pack("<Iiqq", V1, 2, 0, 3) + PLACE, record(0, 3)],
    ids=["v0", "v1", "v2"],
)
def test_size_0_is_an_empty_array(empty: bytes) -> None:
    assert_same(params_file.loads(container(empty))[0], [np.zeros((0, 3), np.float32)])


def test_bytes_after_the_end_are_ignored() -> None:
    content = params_file.dump([counting(2)], ["a"])
    assert_same(params_file.loads(content + b"more")[0], [counting(2)])


def test_reserved_word_and_device_are_ignored() -> None:
    content = struct.pack("<QQQ", 0x112, 7, 1) + struct.pack("<Iiiqiii", V2, 0, 1, 2, 77, -5, 0) + bytes(8 + 8)
    assert_same(params_file.loads(content)[0], [np.zeros(2, np.float32)])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_loads_takes_any_bytes(kind: Callable[[bytes], Any]) -> None:
    assert_same(params_file.loads(kind(params_file.dump([counting(2)])))[0], [counting(2)])


HOSTILE = [
    (b"", r"header: got 0 bytes before the end; need 24"),
    (container(magic=0x113), r"header: got 0x113; need 0x112"),
    (container(count=2**64 - 1), r"18446744073709551615 arrays: got 8 bytes"),
    (container(count=3), r"3 arrays: got 8 bytes before the end; need 12"),
    (
        container(record(2**31, 2**31, 2**31)),
        r"array 0 of shape .* got 8 bytes before the end; need 39614081257132",
    ),
    (container(record(10 * 2**30)), r"need 42949672960"),
    (container(record(*[2**62] * 60)), r"got 8 bytes before the end"),
    (container(record(-1, 4)), r"shape: got \(-1, 4\); need no negative size"),
    (container(record(-1, -4)), r"shape: got \(-1, -4\)"),
    (container(record(rank=-1)), r"rank: got -1; need 0 to 64"),
    (container(record(rank=2**31 - 1)), r"rank: got 2147483647; need 0 to 64"),
    (container(record(*[1] * 65) + bytes(4)), r"rank: got 65"),
    (container(struct.pack("<I", 0xDEADBEEF), bytes(64)), r"rank: got 3735928559"),
    (container(record(0, 2**62, 2**62)), r"shape: got \(0, "),
    (container(record(2, code=8) + bytes(4)), r"array 0: dtype: got number 8; need 0 to 7 or 12"),
    (container(record(2, code=-1) + bytes(8)), r"dtype: got number -1"),
    (container(record(2, storage=1) + bytes(8)), r"storage type: got row_sparse; need dense"),
    (container(record(2, storage=2) + bytes(8)), r"storage type: got csr; need dense"),
    (container(record(2, storage=-1) + bytes(8)), r"storage type: got number -1; need dense"),
    (container(record(2, magic=V3) + bytes(8)), r"saved under NumPy shape semantics \(version 3\)"),
    (container(record(2) + bytes(8), names=struct.pack("<Q", 2)), r"names: got 2 for 1 arrays"),
    (container(names=struct.pack("<Q", 2**63)), r"names: got 9223372036854775808 for 0 arrays"),
    (container(record(2) + bytes(8), names=struct.pack("<QQ", 1, 2**63)), r"name 0 of 9223372036854775808 bytes"),
    (container(record(2) + bytes(8), names=struct.pack("<QQ", 1, 2) + b"\xff\xfe"), r"name 0: got .*; need UTF-8"),
    (container(record(2) + bytes(8), names=b""), r"number of names: got 0 bytes before the end; need 8"),
    (b"a text, no arrays in it at all", r"header: got 0x202c747865742061; need 0x112"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_content_is_refused_without_believing_it(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.params"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message):
            params_file.loads(content)
        with pytest.raises(FormatError, match=message):
            params_file.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_every_cut_is_refused() -> None:
    content = (GOLDEN / "mxnet_1.9.1_names.params").read_bytes()
    for length in range(len(content)):
        with pytest.raises(FormatError, match=r"^params: .*; need "):
            params_file.loads(content[:length])


@pytest.mark.parametrize("file", ["mxnet_1.9.1_names", "mxnet_1.9.1_types", "record_versions"])
def test_mutated_files_load_or_are_refused(file: str) -> None:
    original = (GOLDEN / f"{file}.params").read_bytes()
    rng = random.Random(file)
    messages: list[str] = []
    loaded = 0
    tracemalloc.start()
    try:
        for _ in range(300):
            content = bytearray(original)
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
            if rng.random() < 0.3:
                del content[rng.randrange(len(content)) :]
            try:
                arrays, names = params_file.loads(content)
            except FormatError as error:
                messages.append(str(error))
            else:
                assert len(names) in (0, len(arrays))
                loaded += 1
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert messages
    assert loaded
    assert not any("\n" in message for message in messages)


def test_no_memory_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", empty)
    with pytest.raises(OutOfMemoryError, match=r"array 0: got no memory; need 8 bytes"):
        params_file.loads(container(record(2) + bytes(8)))


def test_file_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shrinking.params"
    params_file.save(path, [counting(100000)])
    stat_of = os.fstat

    def fstat_then_cut(fd: int) -> os.stat_result:
        found = stat_of(fd)
        os.truncate(path, 1000)
        return found

    monkeypatch.setattr(files.os, "fstat", fstat_then_cut)
    with pytest.raises(FormatError, match=r"array 0: got a file that is being cut"):
        params_file.load(path)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, got in (
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path, "not a plain file"),
        (Path("/dev/zero"), "not a plain file"),
        (tmp_path / "absent", "No such file or directory"),
    ):
        with pytest.raises(FormatError, match=rf"params file '.*': got {got}; need a file that can be read"):
            params_file.load(path)
    for name in ("a\0b", "a\ud800"):
        with pytest.raises(FormatError, match=r"params file: path: got .*; need one the file system can hold"):
            params_file.load(name)
    with pytest.raises(DTypeError, match=r"params file: path: got int; need text or a path object"):
        params_file.load(3)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match=r"params: got str; need bytes"):
        params_file.loads("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "names", "error", "message"),
    [
        ([counting(2)], ["a", "b"], ParameterError, r"params: names: got 2 for 1 arrays; need one each, or none"),
        ([counting(2)], ["\ud800"], ParameterError, r"params: names: got .*; need text that UTF-8 can hold"),
        ([counting(2)], [b"a"], DTypeError, r"params: names: got b'a'; need text"),
        ([np.array(1.0)], ["s"], ShapeError, r"params: array 's': got shape \(\); need rank 1 or more"),
        ([counting(2), [1, 2]], [], DTypeError, r"params: array 1: got list; need a NumPy array"),
        ([np.zeros(2, complex)], [], DTypeError, r"params: array 0: dtype: got complex128; need one of float32"),
        ([np.array(["a"])], [], DTypeError, r"params: array 0: dtype: got str32"),
        ([np.array([None])], [], DTypeError, r"params: array 0: dtype: got object"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, arrays: list[Any], names: list[Any], error: type[MXNetError], message: str
) -> None:
    with pytest.raises(error, match=message):
        params_file.dump(arrays, names)
    with pytest.raises(error, match=message):
        params_file.save(tmp_path / "new.params", arrays, names)
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "model.params"
    path.write_bytes(b"old")
    path.chmod(0o640)
    params_file.save(str(path), [counting(2, 3)], ["a"])
    assert path.read_bytes() == params_file.dump([counting(2, 3)], ["a"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    params_file.save(tmp_path / "a.params", [])
    (tmp_path / "b").touch()
    assert (tmp_path / "a.params").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_saving_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    params_file.save(tmp_path / "link", [])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == params_file.dump([])


def test_saving_to_a_device_leaves_the_device() -> None:
    params_file.save("/dev/null", [counting(2)])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "x.params", tmp_path):
        with pytest.raises(MXNetError, match=r"params file '.*': got .*; need a place that can be written"):
            params_file.save(path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_saving_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.params"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, step, full)
    with pytest.raises(MXNetError, match=r"got No space left on device; need a place that can be written"):
        params_file.save(path, [counting(2)])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
