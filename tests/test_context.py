from __future__ import annotations

import threading

import pytest

import tconv as mx
from tconv.context import CPU, usable


def test_names_and_equality():
    assert repr(mx.cpu()) == "cpu(0)"
    assert str(mx.gpu(3)) == "gpu(3)"
    assert mx.cpu(1) == mx.cpu(1)
    assert mx.cpu(1) != mx.cpu(0)
    assert mx.cpu() != mx.cpu_pinned()
    assert mx.cpu() != 1
    assert hash(mx.cpu()) == hash(mx.Context("cpu", 0))
    assert mx.Context(mx.gpu(2)) == mx.gpu(2)
    assert (mx.gpu(2).device_type, mx.gpu(2).device_id, mx.gpu(2).device_typeid) == ("gpu", 2, 2)


def test_with_statement_nests_and_reenters():
    outer = mx.cpu(1)
    assert mx.current_context() is CPU
    with outer:
        with mx.cpu(2), outer:
            assert mx.current_context() == mx.cpu(1)
        assert mx.nd.ones((1,)).context == mx.cpu(1)
    assert mx.current_context() is CPU


def test_with_statement_holds_for_its_thread():
    seen = []
    with mx.cpu(4):
        thread = threading.Thread(target=lambda: seen.append(mx.current_context()))
        thread.start()
        thread.join()
    assert seen == [mx.cpu(0)]


def test_no_gpu():
    assert mx.num_gpus() == 0
    for use in (
        lambda: mx.nd.zeros((2,), ctx=mx.gpu(0)),
        lambda: mx.nd.array([1], ctx="gpu(0)"),
        lambda: mx.nd.ones((1,)).as_in_context(mx.gpu(0)),
        lambda: mx.nd.random.uniform(shape=(1,), ctx=mx.gpu()),
        lambda: mx.context.gpu_memory_info(),
        lambda: mx.gpu().empty_cache(),
    ):
        with pytest.raises(mx.MXNetError, match=r"got gpu\(0\); there is no GPU backend in this build"):
            use()
    with mx.gpu(1), pytest.raises(mx.MXNetError, match="no GPU"):
        mx.nd.ones((1,))


def test_refusals():
    with pytest.raises(mx.MXNetError, match="device_type: got 'tpu'"):
        mx.Context("tpu")
    with pytest.raises(mx.MXNetError, match="device_id: got 'a'"):
        mx.cpu("a")
    with pytest.raises(mx.MXNetError, match="ctx: got 1"):
        mx.nd.ones((1,), ctx=1)
    with pytest.raises(mx.MXNetError, match="ctx: got 'cpu'"):
        usable("cpu")


def test_text_of_a_context_is_one():
    assert usable("cpu(3)") == mx.cpu(3)
    assert usable("cpu_pinned(0)") == mx.cpu_pinned()


def test_arrays_keep_their_context():
    x = mx.nd.ones((2,), ctx=mx.cpu(3))
    assert (x + 1).context == mx.cpu(3)
    assert x[0].context == mx.cpu(3)
    assert x.as_in_context(mx.cpu(3)) is x
    moved = x.as_in_context(mx.cpu(1))
    assert moved.context == mx.cpu(1)
    moved[:] = 5
    assert x.asnumpy().tolist() == [1, 1]
    assert (mx.nd.ones((1,), ctx=mx.cpu_pinned()) * 2).context == mx.cpu()
