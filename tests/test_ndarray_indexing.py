from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tconv as mx

nd = mx.nd


def counted(*shape, dtype="float32"):
    return nd.array(np.arange(np.prod(shape)).reshape(shape), dtype=dtype)


def legacy(part):
    """Return what NumPy gives as MXNet shapes it: there are no scalars."""
    part = np.asarray(part)
    return part.reshape(1) if part.ndim == 0 else part


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    used = draw(st.integers(0, len(shape)))
    entries: list = []
    lengths = draw(st.sampled_from([(), (2,), (2, 3)]))
    for size in shape[:used]:
        kind = draw(st.sampled_from(["int", "slice", "slice", "places"]))
        if kind == "int":
            entries.append(draw(st.integers(-size, size - 1)))
        elif kind == "slice":
            bound = st.none() | st.integers(-size - 2, size + 2)
            step = draw(st.none() | st.integers(-3, 3).filter(bool))
            entries.append(slice(draw(bound), draw(bound), step))
        else:
            count = int(np.prod(lengths))
            places = draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
            entries.append(np.array(places, np.int64).reshape(lengths))
    if used < len(shape) and draw(st.booleans()):
        entries.append(Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    return shape, tuple(entries)


def spelt(key, how):
    return tuple(how(one) if isinstance(one, np.ndarray) and one.ndim else one for one in key)


@given(cases())
def test_reading_is_numpys(case):
    shape, key = case
    x = counted(*shape)
    expected = legacy(x.asnumpy()[key])
    for how in (lambda one: one, np.ndarray.tolist, lambda one: nd.array(one)):
        part = x[spelt(key, how)]
        assert part.shape == expected.shape
        assert (part.asnumpy() == expected).all()
        assert part.dtype is np.float32


@given(cases(), st.sampled_from(["number", "numpy", "array", "row"]))
def test_writing_is_numpys(case, kind):
    x, memory = (counted(*case[0]) for _ in range(2))
    key, memory = case[1], memory.asnumpy()
    shape = np.shape(memory[key])
    values = -np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    if kind == "number":
        values = np.float32(-7)
    elif kind == "row":
        values = values[..., :1]
    memory[key] = values
    x[key] = nd.array(values) if kind == "array" else values
    assert (x.asnumpy() == memory).all()


@given(cases())
def test_gradient_of_reading_adds_up(case):
    shape, key = case
    x = counted(*shape)
    x.attach_grad()
    with mx.autograd.record():
        part = x[key]
        y = part * 1
    part_grad = np.arange(1, part.size + 1, dtype=np.float32).reshape(part.shape)
    y.backward(nd.array(part_grad))
    expected = np.zeros(shape, np.float32)
    np.add.at(expected, key, part_grad.reshape(np.shape(expected[key])))
    assert (x.grad.asnumpy() == expected).all()


class TestViews:
    # Which keys share memory in MXNet 1.9.1, for an array of shape (3, 4).
    @pytest.mark.parametrize(
        ("key", "shares"),
        [
            (slice(1, 3), True),
            (1, True),
            (-1, True),
            ((1, slice(1, 3)), True),
            ((slice(None), slice(1, 2)), False),
            ((slice(None), 0), False),
            ((1, 2), True),
            ((slice(0, 2), slice(0, 4)), True),
            (slice(None, None, 2), False),
            (slice(None, None, -1), False),
            (Ellipsis, True),
            (None, True),
            ([1], False),
            (slice(None), True),
            ((), True),
        ],
    )
    def test_memory(self, key, shares):
        x = counted(3, 4)
        x[key][:] = -1
        assert ((x.asnumpy() < 0).any()) == shares

    def test_a_full_slice_is_the_array(self):
        x = counted(3, 4)
        assert x[:] is x
        assert x[()] is x
        assert x[...] is not x

    def test_views_share_while_recorded_too(self):
        x = counted(3, 4)
        x.attach_grad()
        with mx.autograd.record():
            y = x[1:3]
        y[:] = 0
        assert x.asnumpy()[1:].sum() == 0


class TestWriting:
    # As MXNet 1.9.1 writes.
    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            (slice(None), np.arange(4), [[0, 1, 2, 3]] * 3),
            (slice(1, 3), nd.array([1, 2, 3, 4]), [[0, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]]),
            ((slice(None), 1), [1, 2, 3], [[0, 1, 2, 3], [4, 2, 6, 7], [8, 3, 10, 11]]),
            ((1, 2), nd.array([3]), [[0, 1, 2, 3], [4, 5, 3, 7], [8, 9, 10, 11]]),
            ((1, 2), np.float64(3), [[0, 1, 2, 3], [4, 5, 3, 7], [8, 9, 10, 11]]),
            (0, nd.ones((1, 1, 4)), [[1, 1, 1, 1], [4, 5, 6, 7], [8, 9, 10, 11]]),
            ((0, slice(None)), np.ones((1, 4)) * 3, [[3, 3, 3, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
            (slice(None), np.ones((1, 3, 4)), [[1] * 4] * 3),
            (slice(None), True, [[1] * 4] * 3),
            (None, 3, [[3] * 4] * 3),
            (([0, 2], [1, 1]), nd.array([5, 6]), [[0, 5, 2, 3], [4, 5, 6, 7], [8, 6, 10, 11]]),
            (nd.array([0]), 1, [[1, 1, 1, 1], [4, 5, 6, 7], [8, 9, 10, 11]]),
            (slice(5, 7), 1, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
        ],
    )
    def test_values(self, key, value, expected):
        x = counted(3, 4)
        x[key] = value
        assert x.asnumpy().tolist() == expected

    def test_numbers_are_cut_to_the_type(self):
        x = nd.zeros((2,), dtype="int32")
        x[0] = 7.9
        x[1:] = np.array([-7.9])
        assert x.asnumpy().tolist() == [7, -7]
        x = nd.zeros((2,), dtype="uint8")
        x[:] = -1
        assert x.asnumpy().tolist() == [255, 255]
        x[:] = np.array([300.0, 2.0])
        assert x.asnumpy().tolist() == [44, 2]

    def test_overlapping_memory(self):
        x = counted(5)
        x[1:] = x[:-1]
        assert x.asnumpy().tolist() == [0, 0, 1, 2, 3]

    def test_none_is_not_a_number(self):
        x = counted(2)
        x[:] = None
        assert np.isnan(x.asnumpy()).all()

    def test_scalars_and_empty_arrays(self):
        x = nd.array(5)
        for key in ((), slice(None), ...):
            x[key] = x.asscalar() + 1
        assert x.asscalar() == 8
        nd.zeros((0, 3))[:] = 5
        nd.zeros((2, 3))[1:1] = 5

    @pytest.mark.parametrize("value", ["a", object(), {}, 1j, [1, [2]], np.ones(2, "M8[s]")])
    def test_foreign_values(self, value):
        x = counted(2)
        with pytest.raises(TypeError, match="NDArray: assignment: got"):
            x[:] = value
        assert x.asnumpy().tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            (slice(None), np.arange(3)),
            (slice(None), nd.array([1, 2])),
            (slice(0, 1), np.ones((2, 4))),
            (0, nd.ones((2, 4))),
            ([0, 1], nd.ones((3, 4))),
        ],
    )
    def test_shapes_that_do_not_fit(self, key, value):
        x = counted(3, 4)
        with pytest.raises(ValueError, match="NDArray: assignment: got shape"):
            x[key] = value
        assert (x.asnumpy() == counted(3, 4).asnumpy()).all()


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (5, IndexError, "got 5 for axis 0; its size is 3"),
        (-4, IndexError, "got -4 for axis 0"),
        ((0, 4), IndexError, "got 4 for axis 1"),
        ((0, 0, 0), IndexError, "got 3 indices; the array has 2 dimensions"),
        ([0, 5], IndexError, "index 5 is out of bounds"),
        ((..., ...), IndexError, "more than one Ellipsis"),
        (1.0, ValueError, "got float; need ints"),
        ("a", ValueError, "got str"),
        ({}, ValueError, "got dict"),
        (slice(None, None, 0), ValueError, "step of a slice cannot be 0"),
        (slice(0.5, 1), ValueError, "a slice is made of ints"),
        (np.array([True, False, True]), ValueError, "a mask cannot be an index"),
        ([True, False, True], ValueError, "a mask cannot be an index"),
        (nd.array([1, 0, 1], dtype="bool"), ValueError, "a mask cannot be an index"),
        (np.array(["a"]), ValueError, "need ints"),
        ([[0], [0, 1]], ValueError, "ragged"),
    ],
)
def test_refusals(key, error, match):
    x = counted(3, 4)
    with pytest.raises(error, match=match) as caught:
        x[key]
    assert isinstance(caught.value, mx.MXNetError)
    with pytest.raises(error, match=match):
        x[key] = 1
    assert (x.asnumpy() == counted(3, 4).asnumpy()).all()


def test_every_spelling_of_an_int():
    x = counted(3, 4)
    for one in (1, np.int64(1), np.int32(1), nd.array(1), np.array(1), True):
        assert x[one].asnumpy().tolist() == [4, 5, 6, 7]
    # MXNet cuts fractions of places given as arrays.
    assert x[nd.array([1.9])].shape == (1, 4)
    assert x[range(2)].shape == (2, 4)
    assert x[[]].shape == (0, 4)
    assert x[(0, 1),].shape == (2, 4)


def test_empty_parts():
    x = counted(2, 3)
    assert [x[key].shape for key in (slice(0, 0), slice(5, None), slice(1, 0))] == [(0, 3)] * 3
    assert x[:, 1:1].shape == (2, 0)
    assert x[0, 2:2].shape == (0,)
