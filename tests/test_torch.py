"""PyTorch's transposed convolutions by tconv: numbers, gradients, transforms, and what PyTorch itself tries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

import tconv
from tconv.errors import MXNetError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import tconv.torch as tt  # noqa: E402
from tconv.torch import functional, operators  # noqa: E402

# PyTorch warns of its own use of torch.jit.script.
pytestmark = [pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")]
if not hasattr(torch.library, "register_vmap"):
    # PyTorch 2.4 warns of its own use of torch._vmap_internals, that an operator lacks the rule for vmap that
    # cannot be given there, and of what export makes of operators.
    pytestmark += [
        pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning"),
        pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
        pytest.mark.filterwarnings("ignore:At pre-dispatch tracing:UserWarning"),
    ]

PYTORCH = {rank: getattr(torch.nn.functional, f"conv_transpose{rank}d") for rank in (1, 2, 3)}
OURS = {rank: getattr(tt, f"conv_transpose{rank}d") for rank in (1, 2, 3)}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NAMES = ("conv_transpose", "conv_transpose_input_gradient", "conv_transpose_weight_gradient")
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}

# (input, weight, arguments)
CASES = [
    ((2, 4, 9), (4, 3, 4), {"stride": 2, "padding": 1}),
    ((2, 4, 9), (4, 3, 4), {"stride": [3], "output_padding": 2, "dilation": (2,)}),
    ((4, 9), (4, 1, 3), {"groups": 4, "padding": 2}),
    ((2, 4, 5, 6), (4, 3, 3, 4), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    ((1, 6, 4, 4), (6, 2, 3, 3), {"groups": 3, "dilation": 3, "output_padding": 2}),
    ((6, 4, 4), (6, 2, 2, 2), {"stride": 2}),
    ((2, 1, 1, 1), (1, 5, 4, 4), {}),
    ((2, 3, 3, 4, 2), (3, 2, 2, 3, 1), {"stride": (1, 2, 2), "padding": (0, 1, 0)}),
    ((0, 3, 4, 4), (3, 2, 2, 2), {}),
]


def close(ours: Any, theirs: Any, scale: float = 1.0) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if theirs.numel():
        limit = TOLERANCE[theirs.dtype] * scale * max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit)


def tensors(rank_shapes: tuple[Any, Any], dtype: Any, *, groups: int = 1) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(1)
    input_shape, weight_shape = rank_shapes
    shapes = (input_shape, weight_shape, (weight_shape[1] * groups,))
    x, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return x, w, b


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_pytorchs(case: tuple[Any, ...], dtype: Any) -> None:
    input_shape, weight_shape, arguments = case
    rank = len(weight_shape) - 2
    arrays = tensors((input_shape, weight_shape), dtype, groups=arguments.get("groups", 1))
    theirs, ours = ([t.clone().requires_grad_() for t in arrays] for _ in range(2))
    expected, found = PYTORCH[rank](*theirs, **arguments), OURS[rank](*ours, **arguments)
    close(found, expected)
    with torch.no_grad():
        for _ in range(3):
            close(OURS[rank](*ours, **arguments), expected.detach())
    direction = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
    expected.backward(direction)
    found.backward(direction)
    for mine, his in zip(ours, theirs):
        close(mine.grad, his.grad, 4)


@pytest.fixture(scope="module")
def opinfos() -> dict[int, Any]:
    """Return PyTorch's own descriptions of its operators, with their sample inputs."""
    methods = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations", reason="PyTorch's tests need expecttest"
    )
    return {
        rank: next(op for op in methods.op_db if op.name == f"nn.functional.conv_transpose{rank}d")
        for rank in (1, 2, 3)
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorchs_samples_pass(rank: int, opinfos: dict[int, Any]) -> None:
    op = opinfos[rank]
    seen = 0
    for dtype in sorted(op.dtypes, key=str):
        for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
            expected = PYTORCH[rank](sample.input, *sample.args, **sample.kwargs)
            found = OURS[rank](sample.input, *sample.args, **sample.kwargs)
            assert found.stride() == expected.stride() or expected.numel() == 0
            if dtype in TOLERANCE:
                close(found, expected, 4)
            else:
                assert torch.equal(found, expected)
            seen += 1
    assert seen >= 7 * 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 0},
        {"stride": 2.0},
        {"stride": True},
        {"stride": ()},
        {"stride": (1, 2, 3)},
        {"padding": -1},
        {"padding": 9},
        {"padding": "diagonal"},
        {"output_padding": 1},
        {"output_padding": -1, "stride": 2},
        {"dilation": 0},
        {"groups": 3},
        {"groups": 0},
        {"bias": torch.zeros(4)},
        {"bias": torch.zeros(3, 1)},
        {"weight": torch.zeros(5, 3, 2, 2)},
        {"weight": torch.zeros(2, 3, 2)},
        {"weight": torch.zeros(2, 3, 2, 2, dtype=torch.float64)},
        {"weight": torch.zeros(2, 0, 2, 2)},
        {"input": torch.zeros(3, 3)},
        {"input": torch.zeros(1, 2, 0, 3)},
        {"input": torch.zeros(1, 1, 2, 3, 3)},
    ],
    ids=str,
)
def test_what_pytorch_refuses_is_refused(arguments: dict[str, Any]) -> None:
    given = {"input": torch.zeros(1, 2, 3, 3), "weight": torch.zeros(2, 3, 2, 2), **arguments}
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.nn.functional.conv_transpose2d(**given)
    with pytest.raises((RuntimeError, TypeError)):
        tt.conv_transpose2d(**given)


def test_an_error_is_one_sentence() -> None:
    with pytest.raises(MXNetError, match=r"^conv_transpose2d: stride: got 0; need at least 1$"):
        tt.conv_transpose2d(torch.zeros(1, 2, 3, 3), torch.zeros(2, 3, 2, 2), stride=0)


@pytest.mark.parametrize(
    ("padding", "size"),
    [("same", (10, 18)), ("valid", (11, 17)), (((0, 3), (-1, 2)), (8, 16)), (((1, 0), (0, -4)), (10, 21))],
)
def test_paddings_pytorch_lacks(padding: Any, size: tuple[int, int]) -> None:
    x, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 2)), torch.float64)
    x.requires_grad_()
    arguments = {"stride": (2, 3)}
    full = torch.nn.functional.conv_transpose2d(x, w, None, **arguments)
    found = tt.conv_transpose2d(x, w, b, padding=padding, **arguments)
    assert found.shape[2:] == size
    if padding == "valid":
        crops = [0, 0, 0, 0]
    elif padding == "same":
        crops = [0, size[1] - full.shape[3], 0, size[0] - full.shape[2]]
    else:
        (top, bottom), (left, right) = padding
        crops = [-left, -right, -top, -bottom]
    expected = torch.nn.functional.pad(full, crops) + b[:, None, None]
    close(found, expected)
    direction = torch.randn_like(found)
    (ours,) = torch.autograd.grad(found, x, direction)
    (theirs,) = torch.autograd.grad(expected, x, direction)
    close(ours, theirs)
    by_pytorch = tt.conv_transpose2d(*(t.to(torch.complex128) for t in (x, w, b)), padding=padding, **arguments)
    close(by_pytorch.real, expected)


def test_same_padding_is_the_adjoint_of_the_convolution_of_that_name() -> None:
    for size, kernel, stride, dilation in product((3, 6), (1, 2, 3, 4), (1, 2, 3), (1, 2)):
        x, w = torch.randn(1, 1, size).double(), torch.randn(1, 1, kernel).double()
        y = tt.conv_transpose1d(x, w, stride=stride, dilation=dilation, padding="same")
        assert y.shape[-1] == size * stride
        reach = dilation * (kernel - 1) + 1
        total = max((size - 1) * stride + reach - size * stride, 0)
        large = torch.randn_like(y)
        padded = torch.nn.functional.pad(large, (total // 2, total - total // 2))
        small = torch.nn.functional.conv1d(padded, w, stride=stride, dilation=dilation)[..., :size]
        torch.testing.assert_close((x * small).sum(), (y * large).sum())


def test_output_size() -> None:
    x, w, b = tensors(((2, 4, 5, 5), (4, 3, 3, 3)), torch.float32)
    expected = torch.nn.functional.conv_transpose2d(x, w, b, 2, 1, 1)
    for wanted in ((10, 10), (3, 10, 10), (2, 3, 10, 10), 10):
        close(tt.conv_transpose2d(x, w, b, 2, 1, output_size=wanted), expected)
    with pytest.raises(MXNetError, match=r"output_size: got \(12, 10\); these arguments reach output sizes from"):
        tt.conv_transpose2d(x, w, b, 2, 1, output_size=(12, 10))
    with pytest.raises(MXNetError, match="need one of them"):
        tt.conv_transpose2d(x, w, b, 2, 1, 1, output_size=(10, 10))


@pytest.mark.parametrize("rank", [2, 3])
def test_channels_last_comes_out_where_pytorch_gives_it(rank: int) -> None:
    layout = CHANNELS_LAST[rank]
    shapes = [
        ((2, 4, *[3] * rank), (4, 3, *[2] * rank)),
        ((2, 4, *[1] * rank), (4, 3, *[2] * rank)),
        ((1, 1, *[3] * rank), (1, 1, *[2] * rank)),
    ]
    # In 3-D, PyTorch's kernel for doubles looks at the input alone.
    dtypes = (torch.float32, torch.float64) if rank == 2 else (torch.float32,)
    for shape, dtype, *formats in product(shapes, dtypes, (0, 1), (0, 1)):
        x, w = (
            tensor.contiguous(memory_format=layout) if last else tensor
            for tensor, last in zip(tensors(shape, dtype)[:2], formats)
        )
        ours, theirs = ([t.clone().requires_grad_() for t in (x, w)] for _ in range(2))
        found, expected = OURS[rank](*ours, stride=2), PYTORCH[rank](*theirs, stride=2)
        close(found, expected)
        assert found.stride() == expected.stride(), (shape, formats)
        direction = torch.randn_like(expected)
        gradients = (torch.autograd.grad(y, xw, direction) for y, xw in ((found, ours), (expected, theirs)))
        for mine, his in zip(*gradients):
            close(mine, his, 4)


@pytest.mark.parametrize("rank", [2, 3])
def test_gradients_lie_as_what_they_belong_to(rank: int) -> None:
    """Whichever way the gradient of the result lies: that of a sum has strides of 0."""
    x = torch.randn(2, 4, *[5] * rank).contiguous(memory_format=CHANNELS_LAST[rank]).requires_grad_()
    w = torch.randn(4, 6, *[3] * rank)
    for f in (lambda y: y.sum(), lambda y: y.contiguous().square().sum()):
        ours, theirs = (
            torch.autograd.grad(f(function(x, w, stride=2)), x)[0] for function in (OURS[rank], PYTORCH[rank])
        )
        close(ours, theirs, 4)
        assert ours.stride() == theirs.stride()


def test_memory_is_shared() -> None:
    x, w = torch.randn(1, 4, 8, 8), torch.randn(4, 2, 2, 2)
    assert operators.as_array(x, False).__array_interface__["data"][0] == x.data_ptr()
    last = x.contiguous(memory_format=torch.channels_last)
    assert operators.as_array(last, True).__array_interface__["data"][0] == last.data_ptr()
    half = x.bfloat16()
    assert operators.as_array(half, False).__array_interface__["data"][0] == half.data_ptr()
    with torch.no_grad():
        for strange in (x[:, :, ::2], x.expand(3, -1, -1, -1), x.transpose(2, 3), x.flip(3)):
            close(tt.conv_transpose2d(strange, w), torch.conv_transpose2d(strange, w))


def test_lazy_negation_is_seen() -> None:
    x = torch.randn(1, 4, 8, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    w = torch.randn(4, 2, 2)
    close(tt.conv_transpose1d(x, w), torch.conv_transpose1d(x, w))


def function(x: Any, w: Any, b: Any) -> Any:
    return tt.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1)


def small_doubles() -> list[Any]:
    arrays = tensors(((2, 4, 2, 3), (4, 1, 3, 2)), torch.float64, groups=2)
    return [array.requires_grad_() for array in arrays]


def grouped(x: Any, w: Any, b: Any) -> Any:
    return tt.conv_transpose2d(x, w, b, stride=2, padding=((1, 0), (0, 1)), groups=2)


def test_gradcheck() -> None:
    arrays = small_doubles()
    assert torch.autograd.gradcheck(
        grouped, arrays, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(grouped, arrays, check_fwd_over_rev=True, check_rev_over_rev=True)


def options(rank: int) -> list[Any]:
    return [[2] * rank, [1] * rank, [1] * rank, 2]


def operator_arguments(rank: int, name: str, last: bool) -> tuple[Any, ...]:
    spatial = [3, 2, 2][:rank]
    small, weight, bias = torch.randn(2, 4, *spatial), torch.randn(4, 3, *[2] * rank), torch.randn(6)
    size = [2 * s - 1 for s in spatial]
    large = torch.randn(2, 6, *size)
    if last:
        small, weight, large = (t.contiguous(memory_format=CHANNELS_LAST[rank]) for t in (small, weight, large))
    small, weight, bias, large = (t.requires_grad_() for t in (small, weight, bias, large))
    return {
        "conv_transpose": (small, weight, bias, size, *options(rank)),
        "conv_transpose_input_gradient": (large, weight, spatial, *options(rank)),
        "conv_transpose_weight_gradient": (small, large, [2] * rank, *options(rank)),
    }[name]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str) -> None:
    for rank, last in ((1, False), (2, False), (2, True), (3, True)):
        result = torch.library.opcheck(getattr(torch.ops.tconv, name).default, operator_arguments(rank, name, last))
        assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", NAMES)
def test_operators_refuse_what_does_not_fit(name: str) -> None:
    operator = getattr(torch.ops.tconv, name)
    first, second, *rest = operator_arguments(2, name, False)
    with pytest.raises(MXNetError):
        operator(first[:, :1], second, *rest)
    with pytest.raises(MXNetError):
        operator(first, second[:1], *rest)
    with pytest.raises(MXNetError):
        operator(first, second, *rest[:-1], 0)


@pytest.mark.parametrize("varied", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_forward_mode(varied: tuple[int, ...]) -> None:
    arrays = [array.detach() for array in small_doubles()]
    primals = tuple(arrays[k] for k in varied)
    tangents = tuple(torch.randn_like(array) for array in primals)

    def of(f: Callable[..., Any]) -> Callable[..., Any]:
        def some(*given: Any) -> Any:
            everything = list(arrays)
            for k, array in zip(varied, given):
                everything[k] = array
            return f(*everything, 2, 1, 1, 2)

        return some

    ours, theirs = of(tt.conv_transpose2d), of(PYTORCH[2])
    for mine, his in zip(torch.func.jvp(ours, primals, tangents), torch.func.jvp(theirs, primals, tangents)):
        close(mine, his)
    close(torch.func.jacfwd(ours)(*primals), torch.func.jacfwd(theirs)(*primals))


def test_transforms_nest() -> None:
    x, w, b = (array.detach() for array in small_doubles())
    energy = lambda f: lambda x, w: f(x, w, b, 2, 1, 0, 2).tanh().square().sum()  # noqa: E731
    ours, theirs = energy(tt.conv_transpose2d), energy(torch.nn.functional.conv_transpose2d)
    close(torch.func.grad(ours)(x, w), torch.func.grad(theirs)(x, w))
    for mixed in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f, 1), 0)):
        close(mixed(ours)(x[:1], w), mixed(theirs)(x[:1], w))
    per_sample = lambda f: torch.func.vmap(torch.func.grad(f, 1), (0, None))(x.unsqueeze(1), w)  # noqa: E731
    close(per_sample(ours), per_sample(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_vmap(name: str) -> None:
    operator = getattr(torch.ops.tconv, name)
    arguments = operator_arguments(2, name, False)
    count = 3 if name == "conv_transpose" else 2
    arrays, rest = arguments[:count], arguments[count:]
    for mapped in product((None, 0, 1), repeat=count):
        if not any(dim is not None for dim in mapped):
            continue
        stacks = [
            a.detach() if dim is None else torch.stack([a.detach() * k for k in (1, 2, 3)], dim)
            for a, dim in zip(arrays, mapped)
        ]
        found = torch.vmap(lambda *some: operator(*some, *rest), mapped)(*stacks)
        single = [
            operator(*(s if dim is None else s.select(dim, k) for s, dim in zip(stacks, mapped)), *rest)
            for k in range(3)
        ]
        close(found, torch.stack(single))


class TestCompiled:
    """`torch.compile` and `torch.export` see one operator."""

    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_aot_eager_with_gradients(self) -> None:
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        ours, theirs = (
            [t.requires_grad_() for t in tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)] for _ in range(2)
        )
        found, expected = compiled(*ours), function(*theirs)
        close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        for mine, his in zip(ours, theirs):
            close(mine.grad, his.grad, 4)

    def test_dynamic_shapes_compile_once(self) -> None:
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
        _, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
        for height in range(5, 12):
            x = torch.randn(2, 4, height, height + 1)
            close(compiled(x, w, b), function(x, w, b))
        assert counter.frame_count == 1

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
    @torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
    def test_a_batch_that_follows_from_the_data(self, layout: Any) -> None:
        _, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
        some = lambda x, chosen: function(x[chosen.nonzero().squeeze(1)], w, b)  # noqa: E731
        compiled = torch.compile(some, fullgraph=True, backend="aot_eager")
        x = torch.randn(6, 4, 5, 6).contiguous(memory_format=layout)
        for chosen in ([1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 0, 0]):
            close(compiled(x, torch.tensor(chosen)), some(x, torch.tensor(chosen)))

    def test_export_with_dynamic_shapes(self) -> None:
        model = torch.nn.Sequential(tt.ConvTranspose1d(4, 3, 8, 4, 2), torch.nn.Tanh())
        batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=4096)
        exported = torch.export.export(model, (torch.randn(2, 4, 10),), dynamic_shapes=({0: batch, 2: length},))
        assert torch.ops.tconv.conv_transpose.default in {node.target for node in exported.graph.nodes}
        for shape in ((2, 4, 10), (5, 4, 33)):
            x = torch.randn(shape)
            close(exported.module()(x), model(x))

    def test_channels_last_is_traced(self) -> None:
        x, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
        x = x.contiguous(memory_format=torch.channels_last)
        found = torch.compile(lambda *a: function(*a) * 2, fullgraph=True, backend="aot_eager")(x, w, b)
        assert found.is_contiguous(memory_format=torch.channels_last)
        close(found, function(x, w, b) * 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_jit_traces_pytorchs_operator() -> None:
    x, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
    traced = torch.jit.trace(function, (x, w, b))
    other = torch.randn(1, 4, 8, 9)
    close(traced(other, w, b), function(other, w, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: Any) -> None:
    x, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
    w.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found, expected = function(x, w, b), torch.nn.functional.conv_transpose2d(x, w, b, 2, 1, 1)
        close(found, expected)
        assert found.dtype == dtype
        close(function(x.bfloat16(), w, b), torch.nn.functional.conv_transpose2d(x.bfloat16(), w, b, 2, 1, 1))
        assert function(x.double(), w.double(), b.double()).dtype == torch.float64
    found.float().sum().backward()
    assert w.grad.dtype == torch.float32


def test_inference_mode() -> None:
    x, w, b = tensors(((2, 4, 5, 6), (4, 3, 3, 4)), torch.float32)
    expected = torch.nn.functional.conv_transpose2d(x, w, b, 2, 1, 1)
    with torch.inference_mode():
        for _ in range(3):
            found = function(x, w, b)
            assert found.is_inference()
            close(found, expected)
        inside = w.clone()
        for factor in (1, 1, 2, 3):
            inside.mul_(factor)
            close(function(x, inside, b), torch.nn.functional.conv_transpose2d(x, inside, b, 2, 1, 1))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, 2, 3, dtype=torch.complex64),
        torch.zeros(1, 2, 3, dtype=torch.int64),
        torch.zeros(1, 2, 3, device="meta"),
    ],
    ids=["complex", "integer", "meta"],
)
def test_other_tensors_go_to_pytorch(tensor: Any) -> None:
    weight = torch.ones(2, 1, 3, dtype=tensor.dtype, device=tensor.device)
    assert functional.refusal(tensor, weight, None) is not None
    found = tt.conv_transpose1d(tensor, weight, stride=2)
    assert (found.shape, found.dtype, found.device.type) == ((1, 1, 7), tensor.dtype, tensor.device.type)
    assert tt.conv_transpose1d(tensor, weight, stride=2, padding="same").shape == (1, 1, 6)


def test_a_class_with_operators_of_its_own_keeps_them() -> None:
    class Loud(torch.Tensor):
        pass

    x = torch.randn(1, 2, 3).as_subclass(Loud)
    assert type(tt.conv_transpose1d(x, torch.ones(2, 1, 3))) is Loud


def test_a_mode_sees_the_operator() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        tt.conv_transpose1d(torch.randn(1, 2, 3), torch.ones(2, 1, 3))
    assert "tconv.conv_transpose.default" in seen


def test_threads_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    forward = tconv.engine.forward

    def spy(*arguments: Any, **keywords: Any) -> np.ndarray:
        asked.append(keywords["threads"])
        return forward(*arguments, **keywords)

    monkeypatch.setattr(tconv.engine, "forward", spy)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            tt.conv_transpose1d(torch.randn(1, 2, 3), torch.ones(2, 1, 3))
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP is looked for on Linux")
def test_the_engine_computes_on_pytorchs_threads() -> None:
    """Bits stay the same on them, and a forked child, which has none of them, computes on its own."""
    script = """
import os, numpy as np, tconv, torch
x, w = np.random.rand(4, 64, 64, 64).astype("f"), np.random.rand(64, 64, 4, 4).astype("f")
def compute():
    return tconv.deconvolution(x, w, stride=2, pad=1, threads=3)
expected = compute()
import tconv.torch
from tconv.torch import threads
assert threads.share()
torch.set_num_threads(3)
torch.ones(1 << 22).sum()
for _ in range(3):
    assert np.array_equal(compute(), expected)
assert len(os.listdir("/proc/self/task")) >= 3
child = os.fork()
if not child:
    os._exit(not np.array_equal(compute(), expected))
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)
