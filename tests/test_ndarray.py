from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

import tconv as mx
from tconv.ndarray import NDArray

nd = mx.nd
DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")


def counted(*shape, dtype="float32"):
    return nd.array(np.arange(np.prod(shape)).reshape(shape), dtype=dtype)


class TestWhatItIs:
    def test_properties(self):
        x = counted(2, 3)
        assert (x.shape, x.size, x.ndim, x.stype) == ((2, 3), 6, 2, "default")
        assert x.dtype is np.float32
        assert x.context == x.ctx == mx.cpu()
        assert x.writable
        assert x.grad is None
        assert x.as_nd_ndarray() is x
        assert nd.ndarray.NDArray is nd.NDArray is NDArray

    # As MXNet 1.9.1 prints them.
    @pytest.mark.parametrize(
        ("array", "text"),
        [
            (lambda: nd.array([[1, 2], [3, 4]]), "\n[[1. 2.]\n [3. 4.]]\n<NDArray 2x2 @cpu(0)>"),
            (lambda: nd.array([1]), "\n[1.]\n<NDArray 1 @cpu(0)>"),
            (lambda: nd.array(5), "\n5.0\n<NDArray  @cpu(0)>"),
            (lambda: nd.array([1, 2], dtype="float16"), "\n[1. 2.]\n<NDArray 2 @cpu(0)>"),
            (lambda: nd.array([[True]], dtype="bool"), "\n[[ True]]\n<NDArray 1x1 @cpu(0)>"),
            (lambda: nd.zeros((3,))[0:0], "\n[]\n<NDArray 0 @cpu(0)>"),
            (lambda: nd.zeros((0, 3)), "\n[]\n<NDArray 0x3 @cpu(0)>"),
        ],
    )
    def test_repr(self, array, text):
        assert repr(array()) == str(array()) == text

    def test_truth(self):
        assert not nd.array([])
        assert not nd.array([0])
        assert nd.array([[2]])
        with pytest.raises(ValueError, match="truth is ambiguous"):
            bool(nd.array([1, 2]))

    def test_scalars(self):
        assert float(nd.array([2.5])) == 2.5
        assert int(nd.array([[2.5]])) == 2
        assert [10, 20, 30][nd.array([1], dtype="int32")] == 20
        assert type(nd.array([1]).asscalar()) is np.float32
        assert nd.array(5).asscalar() == 5
        with pytest.raises(TypeError, match="got an array of float32"):
            [1][nd.array([0])]
        with pytest.raises(ValueError, match=r"asscalar: got shape \(3,\)"):
            nd.array([1, 2, 3]).asscalar()

    def test_length_and_iteration(self):
        x = counted(2, 3)
        assert len(x) == 2
        assert [row.asnumpy().tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
        first, second = x
        assert (first + second).asnumpy().tolist() == [3, 5, 7]
        assert [one.shape for one in counted(2)] == [(1,), (1,)]
        assert 1 in counted(3)
        assert 7 not in counted(3)
        assert sum(x).asnumpy().tolist() == [3, 5, 7]
        with pytest.raises(TypeError):
            len(nd.array(5))

    def test_hash_is_identity(self):
        x, y = nd.ones((2,)), nd.ones((2,))
        assert len({x, y, x}) == 2
        assert {x: 1}[x] == 1

    def test_has_no_room_for_other_attributes(self):
        with pytest.raises(AttributeError):
            nd.ones((1,)).foo = 1


class TestMemory:
    def test_wraps_and_is_wrapped_without_a_copy(self):
        memory = np.zeros((2, 3), np.float32)
        x = NDArray(memory)
        x[0] = 7
        assert memory[0].tolist() == [7, 7, 7]
        memory[1] = 5
        assert x[1].asnumpy().tolist() == [5, 5, 5]
        assert np.shares_memory(np.asarray(x), memory)
        assert np.shares_memory(np.asarray(x[1]), memory)

    def test_array_protocol(self):
        x = nd.array([1, 2])
        assert np.asarray(x).dtype == np.float32
        assert np.asarray(x, dtype="float64").dtype == np.float64
        copied = np.array(x)
        copied[0] = 9
        assert x.asnumpy().tolist() == [1, 2]
        with pytest.raises(ValueError, match="need a copy to convert"):
            x.__array__(np.float64, copy=False)
        assert np.sin(x).shape == (2,)
        assert np.stack([x, x]).tolist() == [[1, 2], [1, 2]]
        assert np.sum(x).asscalar() == 3

    def test_asnumpy_is_a_copy_in_c_order(self):
        x = NDArray(np.arange(6.0, dtype=np.float32).reshape(2, 3).T)
        y = x.asnumpy()
        assert y.flags.c_contiguous
        y[:] = 0
        assert x.asnumpy().tolist() == [[0, 3], [1, 4], [2, 5]]

    @pytest.mark.parametrize(
        "memory",
        [
            np.arange(12, dtype=np.float32).reshape(3, 4).T,
            np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
            np.arange(12, dtype=np.float32).reshape(4, 3)[::-1],
            np.arange(12, dtype=">f4").reshape(4, 3),
            np.frombuffer(b"\0" + np.arange(12, dtype=np.float32).tobytes(), np.float32, 12, 1).reshape(4, 3),
        ],
        ids=["transposed", "strided", "reversed", "big-endian", "misaligned"],
    )
    def test_any_layout_computes(self, memory):
        plain = np.ascontiguousarray(memory, np.float32)
        x = NDArray(memory)
        assert x.dtype is np.float32
        assert ((x * 2 + x).asnumpy() == plain * 3).all()
        assert (x.sum(axis=1).asnumpy() == plain.sum(1)).all()
        assert (x.T.asnumpy() == plain.T).all()
        assert (x.reshape((2, -1)).asnumpy() == plain.reshape(2, 6)).all()
        assert (x[1:3, 1].asnumpy() == plain[1:3, 1]).all()
        assert np.asarray(x + 1).flags.c_contiguous

    def test_read_only_memory_stays_as_it_is(self):
        memory = np.ones(3, np.float32)
        memory.flags.writeable = False
        x = NDArray(memory)
        assert not x.writable
        assert (x + 1).writable
        for write in (
            lambda: x.__setitem__(0, 1),
            lambda: x.__iadd__(1),
            lambda: nd.relu(nd.ones((3,)), out=x),
            lambda: nd.ones((3,)).copyto(x),
            lambda: nd.full((3,), 2, out=x),
            lambda: x.to_dlpack_for_write(),
            lambda: mx.autograd.mark_variables(nd.ones((3,)), x),
        ):
            with pytest.raises(mx.MXNetError, match="read-only"):
                write()
        assert memory.tolist() == [1, 1, 1]

    def test_only_numpy_arrays_of_known_types_are_wrapped(self):
        with pytest.raises(TypeError, match="got list; need a NumPy array"):
            NDArray([1])
        with pytest.raises(TypeError, match="got complex128"):
            NDArray(np.ones(2, complex))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="Python asks classes for buffers from 3.12 on")
    def test_buffer(self):
        x = nd.ones((2, 3))
        view = memoryview(x)
        assert view.shape == (2, 3)
        view[0, 0] = 4.0
        assert x[0, 0].asscalar() == 4

    def test_pickle_and_copy(self):
        x = nd.array([[1, 2]], dtype="int8", ctx=mx.cpu(1))
        for y in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x), x.copy()):
            assert (y.dtype, y.context, y.asnumpy().tolist()) == (np.int8, mx.cpu(1), [[1, 2]])
            y[:] = 0
        assert x.asnumpy().tolist() == [[1, 2]]

    def test_sizes_beyond_memory_raise(self):
        for make in (nd.zeros, nd.ones, nd.empty):
            for shape in (2**62, (2**40, 2**40), 10**30):
                with pytest.raises(MemoryError):
                    make(shape)
        with pytest.raises(mx.MXNetError):
            nd.arange(10**14)
        with pytest.raises(mx.MXNetError):
            nd.ones((1, 1)).broadcast_to((2**31, 2**31))
        with pytest.raises(mx.MXNetError):
            nd.ones((1, 1)).broadcast_to((2**20, 2**25))


class TestDLPack:
    def test_there_and_back(self):
        x = nd.zeros((2, 2))
        for other in (nd.from_dlpack(x), nd.from_dlpack(x.to_dlpack_for_write()), mx.from_dlpack(x)):
            other[:] = other.asnumpy() + 1
        assert x.asnumpy().tolist() == [[3, 3], [3, 3]]
        assert nd.from_dlpack(nd.to_dlpack_for_read(x)).asnumpy().tolist() == [[3, 3], [3, 3]]

    def test_the_owner_of_a_capsule_lives_on(self):
        y = nd.from_dlpack(nd.full((1000,), 3).to_dlpack_for_write())
        gc.collect()
        assert y.asnumpy().sum() == 3000

    def test_numpy_reads_it(self):
        x = nd.array([1, 2, 3])
        assert np.shares_memory(np.from_dlpack(x), np.asarray(x))

    def test_torch(self):
        torch = pytest.importorskip("torch")
        x = nd.zeros((3,))
        torch.from_dlpack(x)[1] = 4
        assert x.asnumpy().tolist() == [0, 4, 0]
        tensor = torch.ones(3)
        nd.from_dlpack(tensor)[:] = 5
        assert tensor.tolist() == [5, 5, 5]
        nd.from_dlpack(torch.utils.dlpack.to_dlpack(tensor))[0] = 6
        assert tensor.tolist() == [6, 5, 5]
        assert nd.from_dlpack(torch.ones(2, dtype=torch.bfloat16)).asnumpy().astype("float32").tolist() == [1, 1]

    def test_refusals(self):
        with pytest.raises(mx.MXNetError, match="from_dlpack: dlpack: got int"):
            nd.from_dlpack(5)
        capsule = nd.ones((2,)).to_dlpack_for_read()
        nd.from_dlpack(capsule)
        with pytest.raises(mx.MXNetError, match="from_dlpack"):
            nd.from_dlpack(capsule)

    def test_from_numpy(self):
        memory = np.zeros((2, 2))
        x = nd.from_numpy(memory)
        x[0] = 1
        assert memory.tolist() == [[1, 1], [0, 0]]
        y = nd.from_numpy(memory, zero_copy=False)
        y[:] = 9
        assert memory.max() == 1
        with pytest.raises(ValueError, match="not in C order"):
            nd.from_numpy(np.zeros((2, 3)).T)


class TestCreation:
    # Shape, type and values as MXNet 1.9.1 gives them.
    @pytest.mark.parametrize(
        ("make", "shape", "dtype", "values"),
        [
            (lambda: nd.array(5), (), "float32", 5.0),
            (lambda: nd.array([1, 2]), (2,), "float32", [1, 2]),
            (lambda: nd.array([True]), (1,), "float32", [1]),
            (lambda: nd.array(np.array([1, 2], dtype="float64")), (2,), "float32", [1, 2]),
            (lambda: nd.array(np.array([1, 2], dtype="int64")), (2,), "float32", [1, 2]),
            (lambda: nd.array(nd.array([1, 2], dtype="int64")), (2,), "int64", [1, 2]),
            (lambda: nd.array([nd.array([1, 2]), nd.array([3, 4])]), (2, 2), "float32", [[1, 2], [3, 4]]),
            (lambda: nd.array([0, 2], dtype=np.bool_), (2,), "bool", [False, True]),
            (lambda: nd.array([1], mx.cpu(0), "int32"), (1,), "int32", [1]),
            (lambda: nd.array([1], dtype=float), (1,), "float64", [1]),
            (lambda: nd.array([300, -1.5], dtype="uint8"), (2,), "uint8", [44, 255]),
            (lambda: nd.array([]), (0,), "float32", []),
            (lambda: nd.array([[]]), (1, 0), "float32", [[]]),
            (lambda: nd.zeros(3), (3,), "float32", [0, 0, 0]),
            (lambda: nd.zeros([2, 1]), (2, 1), "float32", [[0], [0]]),
            (lambda: nd.zeros((2,), dtype="int8"), (2,), "int8", [0, 0]),
            (lambda: nd.ones((2,), dtype=np.float16), (2,), "float16", [1, 1]),
            (lambda: nd.ones(np.int64(2)), (2,), "float32", [1, 1]),
            (lambda: nd.full((2,), 3), (2,), "float32", [3, 3]),
            (lambda: nd.full(2, 3, dtype="int32"), (2,), "int32", [3, 3]),
            (lambda: nd.full((2,), nd.array([1, 2])), (2,), "float32", [1, 2]),
            (lambda: nd.arange(3), (3,), "float32", [0, 1, 2]),
            (lambda: nd.arange(2, 10, 2.5), (4,), "float32", [2, 4.5, 7, 9.5]),
            (lambda: nd.arange(3, repeat=2), (6,), "float32", [0, 0, 1, 1, 2, 2]),
            (lambda: nd.arange(5, 1, -1), (4,), "float32", [5, 4, 3, 2]),
            (lambda: nd.arange(3, dtype="int32"), (3,), "int32", [0, 1, 2]),
            (lambda: nd.arange(0, 1, 0.3, dtype="float64"), (4,), "float64", [0.0, 0.3, 0.6, 0.8999999999999999]),
            (lambda: nd.linspace(0, 1, 5), (5,), "float32", [0, 0.25, 0.5, 0.75, 1]),
            (lambda: nd.linspace(0, 1, 2, endpoint=False), (2,), "float32", [0, 0.5]),
            (lambda: nd.linspace(0, 1, 0), (0,), "float32", []),
            (lambda: nd.eye(2, 3), (2, 3), "float32", [[1, 0, 0], [0, 1, 0]]),
            (lambda: nd.eye(2, k=1), (2, 2), "float32", [[0, 1], [0, 0]]),
            (lambda: nd.eye(3, 2, -1, dtype="int32"), (3, 2), "int32", [[0, 0], [1, 0], [0, 1]]),
            (lambda: nd.zeros_like(nd.array([1, 2], dtype="int32")), (2,), "int32", [0, 0]),
            (lambda: nd.ones_like(nd.array([1, 2])), (2,), "float32", [1, 1]),
            (
                lambda: nd.onehot_encode(nd.array([0, 2]), nd.zeros((2, 3))),
                (2, 3),
                "float32",
                [[1, 0, 0], [0, 0, 1]],
            ),
        ],
    )
    def test_values(self, make, shape, dtype, values):
        made = make()
        assert (made.shape, np.dtype(made.dtype).name) == (shape, dtype)
        assert made.asnumpy().tolist() == values

    def test_none_is_not_a_number(self):
        assert np.isnan(nd.array([None, 1]).asnumpy()).tolist() == [True, False]

    def test_a_copy_is_made(self):
        memory = np.ones(2, np.float32)
        x = nd.array(memory)
        y = nd.array(x)
        y[:] = 3
        x[:] = 2
        assert (memory.tolist(), x.asnumpy().tolist()) == ([1, 1], [2, 2])

    def test_out(self):
        out = nd.empty((2,), dtype="int32")
        assert nd.ones((2,), out=out) is out
        assert out.asnumpy().tolist() == [1, 1]
        with pytest.raises(mx.MXNetError, match=r"ones: out: got shape \(2,\); need \(3,\)"):
            nd.ones((3,), out=out)
        with pytest.raises(mx.MXNetError, match="zeros: out: got int32; need float64"):
            nd.zeros((2,), dtype="float64", out=out)
        assert out.asnumpy().tolist() == [1, 1]

    @pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
    def test_every_type(self, dtype):
        if dtype == "bfloat16":
            pytest.importorskip("ml_dtypes")
        x = nd.array([0, 1], dtype=dtype)
        assert np.dtype(x.dtype).name == dtype
        assert x.astype("float32").asnumpy().tolist() == [0, 1]
        assert np.dtype(nd.zeros((2,), dtype=x.dtype).dtype).name == dtype

    @pytest.mark.parametrize(
        ("call", "error", "match"),
        [
            (lambda: nd.array("abc"), TypeError, "array: source_array: got str"),
            (lambda: nd.array([[1, 2], [3]]), TypeError, "array: source_array: got list"),
            (lambda: nd.array([1j]), TypeError, "array: source_array: got list"),
            (lambda: nd.array(object()), TypeError, "array: source_array: got object"),
            (lambda: nd.array([1], dtype="complex64"), TypeError, "dtype: got complex64"),
            (lambda: nd.array([1], dtype="uint16"), TypeError, "dtype: got uint16"),
            (lambda: nd.array([1], dtype="foo"), TypeError, "dtype: got 'foo'"),
            (lambda: nd.zeros((2, -1)), ValueError, "no size may be negative"),
            (lambda: nd.zeros((2, 2.5)), TypeError, "got 2.5; need ints"),
            (lambda: nd.zeros("a"), TypeError, "got 'a'; need ints"),
            (lambda: nd.zeros((2,), stype="csr"), mx.MXNetError, "no sparse arrays"),
            (lambda: nd.empty((2,), stype="row_sparse"), mx.MXNetError, "no sparse arrays"),
            (lambda: nd.arange(5, 1, 0), ValueError, "step"),
            (lambda: nd.arange(0, float("nan")), ValueError, "finite"),
            (lambda: nd.arange(3, repeat=0), ValueError, "repeat"),
            (lambda: nd.linspace(0, 1, -1), ValueError, "negative"),
            (lambda: nd.onehot_encode(nd.array([0]), nd.zeros((2, 3))), ValueError, "need a row for each"),
        ],
    )
    def test_refusals(self, call, error, match):
        with pytest.raises(mx.MXNetError, match=match) as caught:
            call()
        assert isinstance(caught.value, error)

    def test_sparse_matrices_are_refused(self):
        sparse = pytest.importorskip("scipy.sparse")
        with pytest.raises(mx.MXNetError, match="no sparse arrays"):
            nd.array(sparse.csr_matrix(np.eye(2)))

    def test_waitall(self):
        nd.waitall()
        nd.ones((1,)).wait_to_read()


class TestJoining:
    def test_concatenate(self):
        x = counted(2, 3)
        assert (nd.concatenate([x, x], axis=1).asnumpy() == np.concatenate([x.asnumpy()] * 2, 1)).all()
        assert nd.concatenate([x], always_copy=False) is x
        assert nd.concatenate([x]) is not x
        with pytest.raises(mx.MXNetError, match="arrays: got no list"):
            nd.concatenate([])

    def test_moveaxis(self):
        x = counted(2, 3, 4)
        for source, destination in ((0, 2), (2, 0), (-1, 0), ((0, 1), (1, 2)), ((0, 1), (-1, -2))):
            moved = np.moveaxis(x.asnumpy(), source, destination)
            assert (nd.moveaxis(x, source, destination).asnumpy() == moved).all()
        for wrong in ((3, 0), (0, -4), ((0, 0), (1, 2)), ((0, 1), 0)):
            with pytest.raises(mx.MXNetError, match="moveaxis"):
                nd.moveaxis(x, *wrong)

    def test_split_v2(self):
        x = nd.array([1, 2, 3, 4])
        assert [y.asnumpy().tolist() for y in nd.split_v2(x, (1, 3))] == [[1], [2, 3], [4]]
        assert [y.asnumpy().tolist() for y in nd.split_v2(x, 2)] == [[1, 2], [3, 4]]
        assert [y.shape for y in nd.split_v2(counted(2, 3), 3, axis=1, squeeze_axis=True)] == [(2,)] * 3
        for wrong in (3, 0, -1):
            with pytest.raises(mx.MXNetError, match="divisor"):
                nd.split_v2(x, wrong)
        with pytest.raises(mx.MXNetError, match="axis: got 1"):
            nd.split_v2(x, 2, axis=1)


class TestCopies:
    def test_copyto(self):
        x = counted(3, 4)
        y = nd.zeros((3, 4), dtype="int32")
        assert x.copyto(y) is y
        assert y.asnumpy().tolist() == x.asnumpy().tolist()
        with pytest.raises(ValueError, match=r"copyto: other: got shape \(4, 4\); need \(3, 4\)"):
            x.copyto(nd.zeros((4, 4)))
        with pytest.raises(TypeError, match="got ndarray"):
            x.copyto(np.zeros((3, 4)))
        with pytest.warns(RuntimeWarning, match="array itself"):
            x.copyto(x)

    # As MXNet 1.9.1 converts.
    def test_astype(self):
        assert nd.array([1.7, -1.7]).astype("int32").asnumpy().tolist() == [1, -1]
        assert nd.array([300, -1.5]).astype("uint8").asnumpy().tolist() == [44, 255]
        assert nd.array([1.7, 0]).astype(bool).asnumpy().tolist() == [True, False]
        x = nd.ones((2,))
        assert x.astype("float32") is not x
        assert x.astype("float32", copy=False) is x
        with pytest.raises(TypeError, match="got 'foo'"):
            x.astype("foo")

    def test_detach_shares_memory(self):
        x = nd.ones((2,))
        x.detach()[:] = 3
        assert x.asnumpy().tolist() == [3, 3]

    def test_tostype(self):
        x = nd.ones((2,))
        assert x.tostype("default") is not x
        with pytest.raises(mx.MXNetError, match="no sparse arrays"):
            x.tostype("csr")


class TestReshape:
    # As MXNet 1.9.1 reshapes an array of shape (3, 4).
    @pytest.mark.parametrize(
        ("codes", "shape"),
        [
            ((-1,), (12,)),
            ((0, -1), (3, 4)),
            ((0, 2, 2), (3, 2, 2)),
            ((-2,), (3, 4)),
            ((-3,), (12,)),
            ((-4, 1, 3, 0), (1, 3, 4)),
            ((-4, -1, 3, 0), (1, 3, 4)),
            ((-4, 3, -1, -2), (3, 1, 4)),
        ],
    )
    def test_codes(self, codes, shape):
        x = counted(3, 4)
        for y in (x.reshape(codes), x.reshape(*codes), x.reshape(shape=codes), x.reshape(list(codes))):
            assert y.shape == shape
            assert (y.asnumpy().ravel() == np.arange(12)).all()

    def test_reverse(self):
        assert counted(3, 4).reshape((-1, 0), reverse=True).shape == (3, 4)
        assert counted(8, 3, 3, 3, 4, 4).reshape((-4, -1, 2, 0, 0, 0, 0, 0)).shape == (4, 2, 3, 3, 3, 4, 4)

    def test_shares_memory(self):
        x = counted(3, 4)
        for view in (x.reshape((4, 3)), x.expand_dims(0, inplace=True), x.flatten(inplace=True)):
            view[:] = view.asnumpy() + 1
        assert (x.asnumpy() == np.arange(12).reshape(3, 4) + 3).all()
        for copied in (x.flatten(), x.expand_dims(0), x.T, x.transpose((0, 1)), x.squeeze(), x.swapaxes(0, 1)):
            copied[:] = 0
        assert (x.asnumpy() == np.arange(12).reshape(3, 4) + 3).all()
        y = nd.ones((1, 3, 1))
        y.squeeze(inplace=True)[:] = 2
        assert y.asnumpy().sum() == 6

    def test_squeeze_and_expand(self):
        x = counted(3, 1, 4)
        assert x.squeeze().shape == x.squeeze(1).shape == x.squeeze(axis=(1,), inplace=True).shape == (3, 4)
        assert nd.ones((1, 1)).squeeze().shape == nd.ones((1, 1)).squeeze(inplace=True).shape == (1,)
        assert x.expand_dims(-1).shape == x.expand_dims(-1, inplace=True).shape == (3, 1, 4, 1)
        for inplace in (False, True):
            assert nd.zeros((2, 0)).expand_dims(0, inplace=inplace).shape == (1, 2, 0)
            assert nd.zeros((1, 0)).squeeze(0, inplace=inplace).shape == (0,)
            with pytest.raises(mx.MXNetError):
                x.squeeze(0, inplace=inplace)
            with pytest.raises(mx.MXNetError):
                x.expand_dims(5, inplace=inplace)

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda x: x.reshape((5,)), ValueError),
            (lambda x: x.reshape((-1, 5)), ValueError),
            (lambda x: x.reshape((-1, -1)), ValueError),
            (lambda x: x.reshape((3, 4, 0)), ValueError),
            (lambda x: x.reshape((-5,)), ValueError),
            (lambda x: x.reshape(()), ValueError),
            (lambda x: x.reshape(), ValueError),
            (lambda x: x.reshape((2, 6), foo=1), ValueError),
            (lambda x: x.reshape("a"), TypeError),
            (lambda x: x.reshape((2.0, 6)), TypeError),
            (lambda x: x.broadcast_to((3, 5)), ValueError),
            (lambda x: x.broadcast_to((4,)), ValueError),
        ],
    )
    def test_refusals(self, call, error):
        with pytest.raises(mx.MXNetError) as caught:
            call(counted(3, 4))
        assert isinstance(caught.value, error)

    def test_broadcast(self):
        x = counted(4)
        assert x.broadcast_to((2, 3, 4)).asnumpy()[1, 2].tolist() == [0, 1, 2, 3]
        assert counted(1, 4).broadcast_like(counted(3, 4)).shape == (3, 4)
        y = counted(1, 4).broadcast_to((2, 4))
        y[0] = 9
        assert y.asnumpy()[1].tolist() == [0, 1, 2, 3]


class TestArithmetic:
    # As MXNet 1.9.1 computes.
    @pytest.mark.parametrize(
        ("compute", "dtype", "values"),
        [
            (lambda: nd.array([1, 2, 3]) > 2, "float32", [0, 0, 1]),
            (lambda: nd.array([1, 2, 3], dtype="int32") > 2, "int32", [0, 0, 1]),
            (lambda: nd.array([1, 2, 3], dtype="int32") + 1.5, "int32", [2, 3, 4]),
            (lambda: nd.array([1, 2, 3], dtype="int32") * 2.5, "int32", [2, 4, 6]),
            (lambda: nd.array([1, 2, 3], dtype="int32") / 2, "int32", [0, 1, 1]),
            (lambda: nd.array([1, 2, 3], dtype="uint8") - 2, "uint8", [255, 0, 1]),
            (lambda: nd.array([1, -2, 3], dtype="int32") % 2, "int32", [1, 0, 1]),
            (lambda: nd.array([1, -2, 3]) % -2, "float32", [-1, 0, -1]),
            (lambda: nd.array([1, -2, 3]) % 0, "float32", [0, 0, 0]),
            (lambda: 5 % nd.array([1, -2, 3]), "float32", [0, -1, 2]),
            (lambda: 2 ** nd.array([1, -2, 3]), "float32", [2, 0.25, 8]),
            (lambda: nd.array([1, 2, 3]) ** nd.array([1, 2, 3]), "float32", [1, 4, 27]),
            (lambda: 2 - nd.array([1, 2]), "float32", [1, 0]),
            (lambda: 2 / nd.array([1, 2]), "float32", [2, 1]),
            (lambda: np.float32(2) > nd.array([1, 2]), "float32", [1, 0]),
            (lambda: np.int32(2) <= nd.array([1, 2]), "float32", [0, 1]),
            (lambda: np.float32(2) * nd.array([1, 2]), "float32", [2, 4]),
            (lambda: nd.array([1, 2]) * np.float64(2), "float32", [2, 4]),
            (lambda: nd.array([1, 2]) + True, "float32", [2, 3]),
            (lambda: -nd.array([1, -2]), "float32", [-1, 2]),
            (lambda: abs(nd.array([1, -2])), "float32", [1, 2]),
            (lambda: nd.array([[1], [2]]) + nd.array([1, 2]), "float32", [[2, 3], [3, 4]]),
            (lambda: nd.array([1, 2]) + nd.array([[1, 2]]), "float32", [[2, 4]]),
            (lambda: nd.add(nd.array([1]), 2), "float32", [3]),
            (lambda: nd.maximum(2, nd.array([1, 5])), "float32", [2, 5]),
            (lambda: nd.greater(3, nd.array([1, 5])), "float32", [1, 0]),
            (lambda: nd.logical_and(nd.array([1, 0]), 2), "float32", [1, 0]),
            (lambda: nd.power(2, nd.array([3])), "float32", [8]),
            (lambda: nd.true_divide(nd.array([3]), 2), "float32", [1.5]),
            (lambda: nd.array(5) + 1, "float32", 6),
            (lambda: nd.array([]) + 1, "float32", []),
        ],
    )
    def test_values(self, compute, dtype, values):
        result = compute()
        assert np.dtype(result.dtype).name == dtype
        assert result.asnumpy().tolist() == values

    def test_numbers_alone(self):
        assert nd.add(1, 2) == 3
        assert nd.maximum(1, 2) == 2
        assert nd.equal(1, 1) == 1
        assert nd.logical_xor(1, 1) == 0

    @pytest.mark.parametrize("left", [True, False])
    def test_numpy_operands_take_the_type_of_the_array(self, left):
        x, y = nd.array([1, 2, 3]), np.array([1.0, 2.0, 4.0])
        for result in (x + y, x * y, x - y, x == y) if left else (y + x, y * x, y - x, y == x):
            assert isinstance(result, NDArray)
            assert result.dtype is np.float32
        assert (x - y if left else y - x).asnumpy().tolist() == ([0, 0, -1] if left else [0, 0, 1])

    @pytest.mark.parametrize("operator", ["+=", "-=", "*=", "/=", "%="])
    def test_in_place(self, operator):
        memory = np.array([5, 7, 9], np.float32)
        x = NDArray(memory)
        before = x
        expected = {"x": memory.copy()}
        for other, plain in ((2, 2), (nd.array([1, 2, 3]), np.array([1, 2, 3])), (nd.array([2]), 2)):
            scope = {"x": x, "other": other}
            exec(f"x {operator} other", scope)
            assert scope["x"] is before
            expected["plain"] = np.float32(plain)
            exec(f"x {operator} plain", expected)
            assert np.allclose(memory, expected["x"])

    def test_in_place_power_makes_a_new_array(self):
        x = y = nd.array([2, 3])
        x **= 2
        assert x.asnumpy().tolist() == [4, 9]
        assert y.asnumpy().tolist() == [2, 3]

    def test_in_place_failures_change_nothing(self):
        x = nd.ones((4,))
        with pytest.raises(ValueError, match=r"broadcast_add: out: got shape \(4,\); need \(3, 4\)"):
            x += counted(3, 4)
        with pytest.raises(TypeError, match="uniform type"):
            x -= nd.ones((4,), dtype="float64")
        assert x.asnumpy().tolist() == [1, 1, 1, 1]

    @pytest.mark.parametrize("other", [None, "a", [1, 2, 3], object()])
    def test_foreign_operands(self, other):
        x = nd.array([1, 2, 3])
        for compute in (
            lambda: x + other,
            lambda: other - x,
            lambda: x == other,
            lambda: x != other,
            lambda: x < other,
        ):
            with pytest.raises(TypeError):
                compute()
        with pytest.raises(mx.MXNetError):
            x + other
        with pytest.raises(mx.MXNetError):
            x *= other

    def test_shapes_that_do_not_fit(self):
        with pytest.raises(ValueError, match="cannot be broadcast together"):
            nd.array([1, 2]) + nd.array([1, 2, 3])

    def test_no_warning_where_c_gives_infinity(self):
        x = nd.array([1, -1, 0])
        assert (x / 0).asnumpy()[:2].tolist() == [np.inf, -np.inf]
        x = nd.array([3e38])
        x *= 10
        assert np.isinf(x.asscalar())
        x[:] = 1e300
        assert np.isinf(x.asscalar())


class TestMethods:
    # As MXNet 1.9.1 computes with x = [[0, 1, 2, 3], [4, ...], [8, ..., 11]].
    @pytest.mark.parametrize(
        ("compute", "values"),
        [
            (lambda x: x.sum(), [66]),
            (lambda x: x.sum(axis=0), [12, 15, 18, 21]),
            (lambda x: x.sum(0), [12, 15, 18, 21]),
            (lambda x: x.sum(axis=1, keepdims=True), [[6], [22], [38]]),
            (lambda x: x.sum(axis=(0, 1)), [66]),
            (lambda x: x.sum(axis=0, exclude=True), [6, 22, 38]),
            (lambda x: x.mean(), [5.5]),
            (lambda x: x.max(axis=1), [3, 7, 11]),
            (lambda x: x.min(), [0]),
            (lambda x: x.prod(axis=0), [0, 45, 120, 231]),
            (lambda x: x.nansum(), [66]),
            (lambda x: x.argmax(axis=1), [3, 3, 3]),
            (lambda x: x.take(nd.array([0, 2]), axis=1), [[0, 2], [4, 6], [8, 10]]),
            (lambda x: x.slice(begin=(0, 1), end=(2, 3)), [[1, 2], [5, 6]]),
            (lambda x: x.slice((0, 1), (2, None)), [[1, 2, 3], [5, 6, 7]]),
            (lambda x: x.slice_axis(axis=1, begin=1, end=None), [[1, 2, 3], [5, 6, 7], [9, 10, 11]]),
            (lambda x: x.flip(axis=0), [[8, 9, 10, 11], [4, 5, 6, 7], [0, 1, 2, 3]]),
            (lambda x: x.relu().square().sqrt().abs().sign().sum(), [11]),
            (lambda x: x.shape_array(), [3, 4]),
            (lambda x: x.size_array(), [12]),
            (lambda x: x.zeros_like().ones_like().sum(), [12]),
            (lambda x: x.split(2, axis=1)[1], [[2, 3], [6, 7], [10, 11]]),
            (lambda x: x.repeat(2, axis=0).sum(), [132]),
            (lambda x: x.tile((1, 2)).sum(), [132]),
            (lambda x: x.astype("int32").reshape_like(nd.ones((4, 3)))[3], [9, 10, 11]),
        ],
    )
    def test_values(self, compute, values):
        assert compute(counted(3, 4)).asnumpy().tolist() == values

    def test_every_method_has_a_name_and_a_docstring(self):
        for name in nd.functions.METHODS:
            method = getattr(NDArray, name)
            assert method.__name__ == name
            assert f"mx.nd.{name}" in method.__doc__

    def test_operators_that_are_not_there_say_so(self):
        with pytest.raises(AttributeError, match="has no attribute 'no_such_operator'"):
            _ = nd.no_such_operator
        assert not hasattr(nd, "__wrapped__")


class TestFiles:
    def test_round_trip(self, tmp_path):
        path = str(tmp_path / "x.params")
        arrays = {f"arg:{name}": nd.array([[0, 1]], dtype=name) for name in DTYPES}
        nd.save(path, arrays)
        loaded = nd.load(path)
        assert list(loaded) == list(arrays)
        for name, x in arrays.items():
            assert loaded[name].dtype is x.dtype
            assert (loaded[name].asnumpy() == x.asnumpy()).all()
        with open(path, "rb") as file:
            assert list(nd.load_frombuffer(file.read())) == list(arrays)

    def test_lists(self, tmp_path):
        path = tmp_path / "x.params"
        nd.save(path, nd.ones((2,)))
        (x,) = nd.load(path)
        x[:] = 5
        nd.save(path, [x, nd.array([])])
        assert [y.asnumpy().tolist() for y in nd.load(path)] == [[5, 5], []]
        for empty in ([], {}):
            nd.save(path, empty)
            assert nd.load(path) == []

    def test_strided_memory_is_saved_in_order(self, tmp_path):
        path = tmp_path / "x.params"
        nd.save(path, [NDArray(np.arange(6, dtype=np.float32).reshape(2, 3).T)])
        assert nd.load(path)[0].asnumpy().tolist() == [[0, 3], [1, 4], [2, 5]]

    def test_a_record_without_an_array(self):
        data = mx.nd.files.params_file.dump([None], ["w"])
        assert nd.load_frombuffer(data)["w"].shape == (0,)

    def test_refusals(self, tmp_path):
        path = str(tmp_path / "x.params")
        nd.save(path, [nd.ones((2,))])
        for data in ([nd.ones((2,)), 1], {1: nd.ones((2,))}, {"a": 1}, (nd.ones((2,)),), np.ones(2), None):
            with pytest.raises(TypeError, match="save: data: got"):
                nd.save(path, data)
        with pytest.raises(ValueError, match="got shape"):
            nd.save(path, [nd.array(5)])
        assert nd.load(path)[0].asnumpy().tolist() == [1, 1]
        for call, argument in ((nd.load, 1), (nd.load, tmp_path / "none"), (nd.load_frombuffer, 1)):
            with pytest.raises(mx.MXNetError):
                call(argument)
        with pytest.raises(mx.MXNetError):
            nd.load_frombuffer(b"")


def test_import_is_light():
    heavy = {"torch", "jax", "onnx", "scipy", "tconv.symbol"}
    code = f"import sys, tconv.ndarray; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert shown.stdout.strip() == "[]"


def test_arrays_are_freed_at_once():
    x = nd.ones((3,))
    memory = weakref.ref(x)
    y = x.reshape((1, 3))[0]
    gc.disable()
    try:
        del x
        assert memory() is None
        assert y.asnumpy().tolist() == [1, 1, 1]
    finally:
        gc.enable()
