from __future__ import annotations

import copy
import gc
import json
import threading
import weakref

import numpy as np
import pytest

import tconv as mx
from tconv.ndarray import NDArray, tape

nd, ag = mx.nd, mx.autograd

IN_PLACE = "in-place write into an array of a recorded graph"
IN_NO_GRAPH = "which is in no graph"


@pytest.fixture
def x():
    array = nd.array([1, 2, 3])
    array.attach_grad()
    return array


def gradient(x, compute):
    with ag.record():
        y = compute(x)
    y.backward()
    return x.grad.asnumpy().tolist()


class TestModes:
    def test_scopes(self):
        def now():
            return ag.is_recording(), ag.is_training()

        assert now() == (False, False)
        with ag.record():
            assert now() == (True, True)
            with ag.predict_mode():
                assert now() == (True, False)
            with ag.pause():
                assert now() == (False, False)
            with ag.pause(train_mode=True):
                assert now() == (False, True)
            assert now() == (True, True)
        with ag.record(train_mode=False):
            assert now() == (True, False)
        with ag.train_mode():
            assert now() == (False, True)
        assert now() == (False, False)

    def test_setters_return_what_was(self):
        assert (ag.set_recording(True), ag.set_recording(False)) == (False, True)
        assert (ag.set_training(True), ag.set_training(False)) == (False, True)

    def test_scopes_end_with_an_error_and_may_be_entered_again(self):
        scope = ag.record()
        for _ in range(2):
            with pytest.raises(KeyError), scope, scope:
                raise KeyError
            assert not ag.is_recording()

    def test_threads_have_their_own(self):
        seen = []
        with ag.record():
            thread = threading.Thread(target=lambda: seen.append((ag.is_recording(), ag.is_training())))
            thread.start()
            thread.join()
        assert seen == [(False, False)]

    def test_operators_are_told(self):
        ones = nd.ones((100,))
        with ag.record():
            assert nd.Dropout(ones, p=0.5).asnumpy().min() == 0
        with ag.record(train_mode=False):
            assert nd.Dropout(ones, p=0.5).asnumpy().min() == 1


class TestGradients:
    # As MXNet 1.9.1 gives them for x = [1, 2, 3].
    @pytest.mark.parametrize(
        ("compute", "expected"),
        [
            (lambda x: x * 2, [2, 2, 2]),
            (lambda x: x * x * x, [3, 12, 27]),
            (lambda x: x.sum(), [1, 1, 1]),
            (lambda x: x[0] * 2, [2, 0, 0]),
            (lambda x: x[1:] * 2, [0, 2, 2]),
            (lambda x: x[::2] * 2, [2, 0, 2]),
            (lambda x: x[[0, 0]] * 2, [4, 0, 0]),
            (lambda x: x[:] * 2, [2, 2, 2]),
            (lambda x: x[None] * 2, [2, 2, 2]),
            (lambda x: x[1] + x[0:1] + x[nd.array([2])], [1, 1, 1]),
            (lambda x: x.reshape((3, 1)) * 2, [2, 2, 2]),
            (lambda x: x.expand_dims(0, inplace=True), [1, 1, 1]),
            (lambda x: x.T * 2, [2, 2, 2]),
            (lambda x: x.copy(), [1, 1, 1]),
            (lambda x: x.copyto(mx.cpu(1)), [1, 1, 1]),
            (lambda x: x.as_in_context(mx.cpu(1)) * 2, [2, 2, 2]),
            (lambda x: x.astype("float64") * 2, [2, 2, 2]),
            (lambda x: nd.array(x) * x, [2, 4, 6]),
            (lambda x: nd.zeros((3,)) + x * x, [2, 4, 6]),
            (lambda x: nd.BlockGrad(x) + x, [1, 1, 1]),
            (lambda x: x.detach() * x, [1, 2, 3]),
            (lambda x: x > 1, [0, 0, 0]),
            (lambda x: x.argmax(axis=0), [0, 0, 0]),
            (lambda x: nd.split(x, 3, axis=0)[1], [0, 1, 0]),
            (lambda x: nd.relu(x, out=nd.zeros((3,))), [1, 1, 1]),
            (lambda x: float(x.asnumpy().sum()) * x, [6, 6, 6]),
            (lambda x: 6 / x, [-6, -1.5, -2 / 3]),
            (lambda x: nd.concat(x, x * 2, dim=0), [3, 3, 3]),
            (lambda x: x.broadcast_to((2, 3)), [2, 2, 2]),
            (lambda x: x.max(), [0, 0, 1]),
        ],
    )
    def test_values(self, x, compute, expected):
        assert np.allclose(gradient(x, compute), expected, rtol=1e-6)

    def test_heads(self, x):
        with ag.record():
            y, z = x * 2, x * 3
        ag.backward([y, z], [nd.array([1, 2, 3]), None])
        assert x.grad.asnumpy().tolist() == [5, 7, 9]
        with ag.record():
            y = x * 2
        ag.backward(y, nd.array([1, 2, 3]), train_mode=False)
        assert x.grad.asnumpy().tolist() == [2, 4, 6]
        with ag.record():
            y = x * 2
        y.backward(np.array([1.0, 0.0, 1.0]))
        assert x.grad.asnumpy().tolist() == [2, 0, 2]

    def test_a_leaf_is_its_own_head(self, x):
        x.backward()
        assert x.grad.asnumpy().tolist() == [1, 1, 1]

    def test_deconvolution(self):
        rng = np.random.default_rng(1)
        d, w, b, g = (rng.standard_normal(s) for s in ((2, 3, 4), (3, 2, 3), (2,), (2, 2, 9)))
        arrays = [nd.array(one, dtype="float64") for one in (d, w, b)]
        for one in arrays:
            one.attach_grad()
        with ag.record():
            y = nd.Deconvolution(*arrays, kernel=(3,), num_filter=2, stride=(2,), no_bias=False)
        y.backward(nd.array(g, dtype="float64"))
        for one, step in zip(arrays, (1e-5,) * 3):
            place = tuple(size - 1 for size in one.shape)
            values = []
            for sign in (1, -1):
                one[place] = one[place] + sign * step
                out = nd.Deconvolution(*arrays, kernel=(3,), num_filter=2, stride=(2,), no_bias=False).asnumpy()
                values.append((out * g).sum())
                one[place] = one[place] - sign * step
            assert np.isclose(one.grad.asnumpy()[place], (values[0] - values[1]) / (2 * step), rtol=1e-6)

    def test_one_weight_in_two_layers(self):
        w, d = nd.array([[[2.0, 1.0]]]), nd.array([[[1.0, 3.0]]])
        w.attach_grad()
        with ag.record():
            y = nd.Deconvolution(d, w, kernel=(2,), num_filter=1)
            z = nd.Deconvolution(y, w, kernel=(2,), num_filter=1)
        z.backward()
        (found,) = w.grad.asnumpy().reshape(1, 2)
        assert found.tolist() == [24, 24]


class TestRequests:
    def test_write_and_add(self):
        x = nd.ones((2,))
        x.attach_grad("add")
        for _ in range(3):
            gradient(x, lambda x: x * 2)
        assert x.grad.asnumpy().tolist() == [6, 6]
        x.attach_grad()
        for _ in range(3):
            x.grad[:] = 7
            gradient(x, lambda x: x * 2)
        assert x.grad.asnumpy().tolist() == [2, 2]

    def test_null(self):
        x, y = nd.ones((2,)), nd.ones((2,))
        x.attach_grad("null")
        with ag.record():
            z = x * 2
        with pytest.raises(mx.MXNetError, match="no array wants a gradient"):
            z.backward()
        y.attach_grad()
        x.grad[:] = 5
        with ag.record():
            z = x * y
        z.backward()
        assert x.grad.asnumpy().tolist() == [5, 5]
        assert y.grad.asnumpy().tolist() == [1, 1]

    def test_gradients_keep_their_memory(self, x):
        memory = x.grad
        gradient(x, lambda x: x * 2)
        assert x.grad is memory
        assert memory.asnumpy().tolist() == [2, 2, 2]

    def test_mark_variables(self):
        x, y = nd.ones((2,)), nd.ones((2,))
        g, h = nd.zeros((2,)), nd.ones((2,), dtype="float64")
        ag.mark_variables(x, g)
        ag.mark_variables([y], [h], ["add"])
        with ag.record():
            z = x * 2 + y * 3
        z.backward()
        assert (g.asnumpy().tolist(), h.asnumpy().tolist()) == ([2, 2], [4, 4])
        for call in (
            lambda: ag.mark_variables([x], [nd.zeros((3,))]),
            lambda: ag.mark_variables([x], [g], ["foo"]),
            lambda: ag.mark_variables([x], [g, g]),
            lambda: ag.mark_variables([x], g.asnumpy()),
            lambda: x.attach_grad("foo"),
            lambda: x.attach_grad(stype="csr"),
        ):
            with pytest.raises(mx.MXNetError):
                call()

    def test_attaching_anew_starts_a_new_variable(self, x):
        with ag.record():
            y = x * 2
        x.attach_grad()
        y.backward()
        assert x.grad.asnumpy().tolist() == [0, 0, 0]

    def test_attaching_cuts_the_graph(self, x):
        with ag.record():
            y = x * 2
            y.attach_grad()
            z = y * 3
        z.backward()
        assert (x.grad.asnumpy().tolist(), y.grad.asnumpy().tolist()) == ([0, 0, 0], [3, 3, 3])

    def test_pause_cuts_the_graph(self, x):
        with ag.record():
            y = x * 2
            with ag.pause():
                z = y * x
            w = z + y
        w.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
    def test_types(self, dtype):
        x = nd.array([1, 2], dtype=dtype)
        x.attach_grad()
        assert gradient(x, lambda x: x * 2) == [2, 2]
        assert np.dtype(x.grad.dtype) == dtype
        with ag.record():
            y = x * 3
        y.backward(nd.array([1, 2], dtype="float32"))
        assert x.grad.asnumpy().tolist() == [3, 6]


class TestGraphLife:
    def test_backward_twice(self, x):
        with ag.record():
            y = x * 2
        y.backward(retain_graph=True)
        y.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]
        with pytest.raises(mx.MXNetError, match=IN_NO_GRAPH):
            y.backward()

    def test_what_was_not_recorded(self, x):
        for head in (x * 2, nd.ones((2,)), x.detach(), copy.deepcopy(x)):
            with pytest.raises(mx.MXNetError, match=IN_NO_GRAPH):
                head.backward()
        with ag.record():
            y = nd.ones((2,)) * 2
        with pytest.raises(mx.MXNetError, match=IN_NO_GRAPH):
            y.backward()

    def test_a_graph_freed_half(self, x):
        with ag.record():
            h = x * 2
            a, b = h * 3, h * 5
        a.backward()
        with pytest.raises(mx.MXNetError, match="depends on a graph freed before"):
            b.backward()
        assert x.grad.asnumpy().tolist() == [6, 6, 6]
        with ag.record():
            c = h * x
        c.backward()
        assert x.grad.asnumpy().tolist() == [2, 4, 6]

    def test_graphs_go_with_their_last_array(self, x):
        gc.disable()
        try:
            alive = []
            for walk in (True, False):
                for _ in range(5):
                    with ag.record():
                        h = x * x
                        y = h.sum()
                    if walk:
                        y.backward()
                    alive += [weakref.ref(h), weakref.ref(y)]
            del h, y
            assert [one() for one in alive] == [None] * 20
        finally:
            gc.enable()

    def test_backward_frees_what_was_saved(self, x):
        with ag.record():
            h = x * x
            y = h * x
        saved = weakref.ref(h.__array__())
        del h
        assert saved() is not None
        y.backward()
        assert saved() is None

    @pytest.mark.parametrize("walk", [True, False])
    def test_no_depth_is_too_deep(self, x, walk):
        with ag.record():
            y = x
            for _ in range(20000):
                y = y + x
        if walk:
            y.backward()
            assert x.grad.asnumpy().tolist() == [20001] * 3
        del y

    def test_failures_change_nothing(self, x):
        with ag.record():
            y = x * 2
        for head_grad, match in ((nd.ones((2,)), r"head_grads: got shape \(2,\); need \(3,\)"), ("a", "got str")):
            with pytest.raises(mx.MXNetError, match=match):
                ag.backward(y, [head_grad])
        with pytest.raises(mx.MXNetError, match="head_grads: got 2; need 1"):
            ag.backward(y, [None, None])
        assert x.grad.asnumpy().tolist() == [0, 0, 0]
        y.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]

    @pytest.mark.parametrize("heads", [[], (), None, 5, [None], "ab", [np.ones(2)]])
    def test_foreign_heads(self, heads):
        with pytest.raises(mx.MXNetError, match="backward: heads"):
            ag.backward(heads)

    def test_threads_record_apart(self):
        found: dict[int, list[list[float]]] = {}

        def run(factor):
            x = nd.array([1.0, 2.0])
            x.attach_grad()
            found[factor] = [gradient(x, lambda x: x * x * factor) for _ in range(50)]

        threads = [threading.Thread(target=run, args=(factor,)) for factor in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {factor: [[2 * factor, 4 * factor]] * 50 for factor in (1, 2, 3, 4)}


class TestInPlace:
    # What MXNet 1.9.1 refuses inside record().
    @pytest.mark.parametrize(
        "write",
        [
            lambda x, y, c: x.__iadd__(1),
            lambda x, y, c: y.__imul__(x),
            lambda x, y, c: x.__setitem__(slice(None), 1),
            lambda x, y, c: x.__setitem__(0, 1),
            lambda x, y, c: y.__setitem__(slice(None), nd.ones((3,))),
            lambda x, y, c: y.__setitem__(slice(0, 2), x[1:3]),
            lambda x, y, c: x[0:2].__setitem__(slice(None), 1),
            lambda x, y, c: nd.relu(x, out=y),
            lambda x, y, c: nd.relu(x, out=c),
            lambda x, y, c: c.__setitem__(0, 5),
        ],
    )
    def test_arrays_of_a_graph_are_not_written(self, x, write):
        c = nd.array([4, 5, 6])
        with ag.record():
            y = x * c
            with pytest.raises(mx.MXNetError, match=IN_PLACE):
                write(x, y, c)
        y.backward()
        assert x.grad.asnumpy().tolist() == [4, 5, 6]
        assert (x.asnumpy().tolist(), c.asnumpy().tolist()) == ([1, 2, 3], [4, 5, 6])
        with ag.record():
            y[:] = 1
            c[:] = 2

    def test_an_output_is_no_input_of_a_recorded_call(self, x):
        z = nd.ones((3,))
        with ag.record(), pytest.raises(mx.MXNetError, match="out: got an input of a recorded call"):
            z += x
        assert z.asnumpy().tolist() == [1, 1, 1]

    def test_what_is_in_no_graph_may_be_written(self):
        z = nd.zeros((3,))
        with ag.record():
            z[0] = 5
            z += 1
        assert z.asnumpy().tolist() == [6, 1, 1]

    def test_outside_everything_may_be_written(self, x):
        with ag.record():
            z = x * x
        x[:] = 100
        x += 0
        z.backward()
        # As in MXNet, the gradient sees the new values.
        assert x.grad.asnumpy().tolist() == [200, 200, 200]

    @pytest.mark.parametrize("shape", [(3,), (2, 3)])
    def test_assigning_to_a_whole_array_is_recorded(self, x, shape):
        z = nd.zeros(shape, dtype="float64")
        with ag.record():
            z[:] = x * 2
            z2 = nd.zeros((3,))
            (x * 3).copyto(z2)
        ag.backward([z, z2])
        assert z.asnumpy().reshape(-1)[:3].tolist() == [2, 4, 6]
        assert x.grad.asnumpy().tolist() == [3 + 2 * len(np.zeros(shape).reshape(-1, 3))] * 3

    def test_assigning_drops_axes_in_front(self, x):
        z = nd.zeros((3,))
        with ag.record():
            z[:] = x.reshape((1, 1, 3)) * 2
        z.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]

    def test_assigning_to_a_part_is_refused(self, x):
        z = nd.zeros((2, 3))
        with ag.record():
            for key in (0, (slice(None), slice(0, 3, 2)), [1], (slice(None, None, -1),)):
                with pytest.raises(mx.MXNetError, match="to a part of another"):
                    z[key] = x[0]
            z[0:2] = x
        z.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]


class TestGrad:
    def test_returns_a_list_and_leaves_the_arrays_alone(self, x):
        with ag.record():
            y = x * 2
        (g,) = ag.grad(y, x, retain_graph=True)
        assert g.asnumpy().tolist() == [2, 2, 2]
        (g,) = ag.grad([y], [x], head_grads=nd.array([1, 2, 3]))
        assert g.asnumpy().tolist() == [2, 4, 6]
        assert x.grad.asnumpy().tolist() == [0, 0, 0]
        with pytest.raises(mx.MXNetError, match=IN_NO_GRAPH):
            ag.grad(y, [x])

    def test_weights_and_arrays_in_the_middle(self):
        d, w = nd.array([[[1.0, 2.0]]]), nd.array([[[1.0, 10.0]]])
        d.attach_grad("null")
        w.attach_grad()
        with ag.record():
            h = nd.Deconvolution(d, w, kernel=(2,), num_filter=1)
            y = (h * h).sum()
        found = ag.grad(y, [w, h, d, y])
        assert [g.asnumpy().ravel().tolist() for g in found] == [[50, 104], [2, 24, 40], [242, 424], [1]]

    def test_gradients_own_their_memory(self, x):
        with ag.record():
            y = x + 0
        first, second = ag.grad(y, [x, y])
        first[:] = 9
        assert second.asnumpy().tolist() == [1, 1, 1]

    def test_refusals(self, x):
        w = nd.ones((3,))
        with ag.record():
            y = x * 2
        with pytest.raises(mx.MXNetError, match="variables: got array 0, which is in no graph"):
            ag.grad(y, [w])
        w.attach_grad()
        with pytest.raises(mx.MXNetError, match="do not depend on"):
            ag.grad(y, [w])
        with pytest.raises(mx.MXNetError, match="array 1, which the heads do not depend on"):
            ag.grad(y, [x, w])
        with pytest.raises(mx.MXNetError, match="variables: got list of no arrays"):
            ag.grad(y, [])
        with pytest.raises(mx.MXNetError, match="create_graph"):
            ag.grad(y, [x], create_graph=True)
        assert ag.grad(y, [x])[0].asnumpy().tolist() == [2, 2, 2]


class Product(ag.Function):
    def forward(self, a, b):
        self.save_for_backward(a, b)
        return a * b

    def backward(self, g):
        a, b = self.saved_tensors
        return g * b, g * a


class TestFunction:
    def test_gradient(self):
        x, w = nd.array([1, 2]), nd.array([3, 4])
        x.attach_grad()
        w.attach_grad()
        with ag.record():
            y = Product()(x, w) * 2
        y.backward()
        assert (x.grad.asnumpy().tolist(), w.grad.asnumpy().tolist()) == ([6, 8], [2, 4])

    def test_modes_inside(self, x):
        seen = []

        class Look(ag.Function):
            def forward(self, a):
                seen.append((ag.is_recording(), ag.is_training()))
                return a * 2

            def backward(self, g):
                seen.append((ag.is_recording(), ag.is_training(), g.context, g.writable))
                return g

        with ag.record():
            y = Look()(x)
        y.backward()
        assert seen == [(False, True), (False, True, mx.cpu(), True)]
        assert x.grad.asnumpy().tolist() == [1, 1, 1]

    def test_many_outputs(self, x):
        class Two(ag.Function):
            def forward(self, a):
                return a * 2, a * 3

            def backward(self, g, h):
                return g * 2 + h * 3

        with ag.record():
            y, _ = Two()(x)
        y.backward()
        assert x.grad.asnumpy().tolist() == [2, 2, 2]

    def test_outside_of_record_it_is_a_plain_call(self, x):
        y = Product()(x, x)
        with pytest.raises(mx.MXNetError, match=IN_NO_GRAPH):
            y.backward()

    def test_gradients_take_the_type_of_their_input(self):
        x = nd.array([1, 2], dtype="float64")
        x.attach_grad()

        class Cast(ag.Function):
            def forward(self, a):
                return a.astype("float32")

            def backward(self, g):
                return g * 3

        with ag.record():
            y = Cast()(x)
        y.backward()
        assert x.grad.dtype is np.float64
        assert x.grad.asnumpy().tolist() == [3, 3]

    @pytest.mark.parametrize(
        ("back", "match"),
        [
            (lambda g: (g, g), "backward: got 2 gradients; need 1"),
            (lambda g: g.asnumpy(), "backward: got ndarray; need NDArrays"),
            (lambda g: nd.ones((2,)), r"backward: got a gradient of shape \(2,\); need \(3,\)"),
        ],
    )
    def test_bad_gradients(self, x, back, match):
        class Bad(ag.Function):
            def forward(self, a):
                return a * 2

            def backward(self, g):
                return back(g)

        with ag.record():
            y = Bad()(x)
        with pytest.raises(mx.MXNetError, match=match):
            y.backward()
        assert x.grad.asnumpy().tolist() == [0, 0, 0]

    def test_its_own_errors_pass_through(self, x):
        class Bad(ag.Function):
            def forward(self, a):
                return a * 2

            def backward(self, g):
                raise LookupError("mine")

        with ag.record():
            y = Bad()(x)
        with pytest.raises(LookupError, match="mine"):
            y.backward()
        assert not ag.is_training()

    def test_refusals(self, x):
        function = Product()
        function(x, x)
        with pytest.raises(mx.MXNetError, match="second call"):
            function(x, x)

        class Same(ag.Function):
            def forward(self, a):
                return a

        with ag.record(), pytest.raises(mx.MXNetError, match=IN_PLACE):
            Same()(x)


class TestTape:
    def test_record_takes_any_computation(self, x):
        y = NDArray(np.asarray(x) ** 2)
        tape.record([x], [y], lambda grads: [grads[0] * 0])
        assert y._node is None
        with ag.record():
            tape.record([nd.ones((3,))], [y], lambda grads: [None])
            assert y._node is None
            tape.record([x, nd.ones((1,))], [y], lambda grads: [grads[0] * 2 * np.asarray(x), None])
        y.backward()
        assert x.grad.asnumpy().tolist() == [2, 4, 6]

    def test_a_wrong_number_of_gradients(self, x):
        y = NDArray(np.zeros(3, np.float32))
        with ag.record():
            tape.record([x], [y], lambda grads: [])
        with pytest.raises(mx.MXNetError, match="got 0 gradients from a step; need 1"):
            y.backward()


class TestGetSymbol:
    def test_graph(self, x):
        w = nd.array([[[1, 2]]])
        with ag.record():
            d = x.reshape((1, 1, 3)) * 2
            y = nd.Deconvolution(d, w, kernel=(2,), num_filter=1)[:, :, 1:] + d[0, 0]
        symbol = ag.get_symbol(y)
        operators = [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
        assert sorted(set(operators)) == ["Deconvolution", "Reshape", "_mul_scalar", "broadcast_add", "slice"]
        assert len(symbol.list_arguments()) == 2
        by_shape = {(3,): x, (1, 1, 2): w}
        shapes = [x.shape, w.shape]
        for names in (symbol.list_arguments(), symbol.list_arguments()[::-1]):
            values = {name: by_shape[shape] for name, shape in zip(names, shapes)}
            try:
                (out,) = symbol.eval(ctx=mx.cpu(), **values)
            except mx.MXNetError:
                continue
            assert (out.asnumpy() == y.asnumpy()).all()
            break
        else:
            pytest.fail("no order of the arguments fits")

    def test_refusals(self, x):
        with pytest.raises(mx.MXNetError, match="in no graph"):
            ag.get_symbol(nd.ones((2,)))
        with pytest.raises(mx.MXNetError, match="got ndarray"):
            ag.get_symbol(np.ones(2))
        with ag.record():
            y = Product()(x, x)
        with pytest.raises(mx.MXNetError, match="a step that is no operator"):
            ag.get_symbol(y)
