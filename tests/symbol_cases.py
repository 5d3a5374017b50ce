"""Symbols made alike with MXNet and with tconv, and what is observed of them; see `tests/test_symbol_golden.py`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Case = tuple[str, dict[str, tuple[int, ...]]]

# Code that leaves a symbol called `s`, and shapes to infer the others from.
WRITTEN: tuple[Case, ...] = (
    ("s = S.var('x')", {"x": (2, 3)}),
    ("s = S.var('x', shape=(0, 3), dtype='float64', lr_mult=2.0, wd_mult=0, init='zeros', __k__='v')", {}),
    ("s = S.var('x', attr={'lr_mult': '3', 'plain': 'k', '__q__': 'a \"b\" \\\\ c'}, stype='csr')", {}),
    (
        "s = S.Deconvolution(S.var('d'), kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=5)",
        {"d": (1, 3, 7, 8)},
    ),
    ("s = S.Deconvolution(name='up', kernel=[3], num_filter='6', no_bias=False)", {"up_data": (2, 4, 5)}),
    (
        "s = S.Deconvolution(S.var('d'), S.var('w'), None, 3, 2, (1,), (1,), (1,), (0,), 7, 1)",
        {"d": (1, 2, 5)},
    ),
    ("s = S.Deconvolution(bias=S.var('b'), kernel=(2,), num_filter=2, no_bias=0, lr_mult='0.1')", {}),
    ("s = S.Deconvolution(S.var('d'), kernel=(2, 2), num_filter=2, target_shape=(9, 8), stride=(2, 2))", {}),
    ("s = S.Convolution(S.var('d'), kernel=(3, 3), num_filter=4, name='c') * 2 - 1", {"d": (1, 3, 7, 8)}),
    ("s = S.FullyConnected(S.var('d'), num_hidden=3, flatten=False)", {"d": (2, 3, 4)}),
    ("s = S.BatchNorm(S.var('d'), name='bn')", {"d": (2, 3, 4)}),
    ("s = S.BatchNorm(S.var('d'), name='bn', output_mean_var=True)", {"d": (2, 3, 4)}),
    ("s = S.BatchNorm(S.var('d'), name='bn', fix_gamma=False)(bn_moving_mean=S.var('m'))", {"d": (2, 3, 4)}),
    ("m = S.var('m'); s = S.BatchNorm(S.BatchNorm(S.var('d'), moving_mean=m), moving_mean=m)", {"d": (2, 3, 4)}),
    ("m = S.var('m'); a = S.BatchNorm(S.var('d'), moving_mean=m); s = S.Group([a, S.BatchNorm(m), m])", {}),
    ("s = S.BatchNorm(S.var('d')).get_children()", {}),
    ("s = S.LeakyReLU(S.var('d'), act_type='prelu')", {"d": (2, 3, 4)}),
    ("s = S.LeakyReLU(S.var('d'), S.var('g'), act_type='prelu', name='p')", {"d": (2, 3, 4)}),
    ("s = S.SliceChannel(S.var('d'), num_outputs=3, name='sp')", {"d": (2, 6, 4)}),
    ("s = S.SliceChannel(S.var('d'), num_outputs=3, name='sp')[1] + 1", {"d": (2, 6, 4)}),
    ("s = S.SliceChannel(S.var('d'), num_outputs=3, name='sp')[0:2]", {"d": (2, 6, 4)}),
    ("p = S.SliceChannel(S.var('d'), num_outputs=3); s = S.Concat(*p, dim=2)", {"d": (2, 6, 4)}),
    ("s = S.Concat(S.var('a'), num_args=3, name='c')", {}),
    ("s = S.add_n(S.var('a'), S.var('b'), S.var('a'), name='n')", {"a": (2, 3)}),
    ("a = S.var('a'); s = S.Group([a, a, S.relu(a, name='r')])", {"a": (2, 3)}),
    ("a, b = S.var('a'), S.var('b'); s = S.Group([a + b, a - b, a * b, a / b, a % b, a ** b])", {"a": (2, 3)}),
    ("a = S.var('a'); s = S.Group([a + 1, 1 + a, a - 1, 1 - a, a * 2, 2 * a, a / 2, 2 / a])", {"a": (2, 3)}),
    ("a = S.var('a'); s = S.Group([a % 3, 3 % a, a ** 2, 2 ** a, -a, abs(a), a + 0.5, a * -1e-9])", {"a": (2, 3)}),
    ("a, b = S.var('a'), S.var('b'); s = S.Group([a == b, a != b, a > b, a >= b, a < b, a <= b])", {"b": (2, 3)}),
    ("a = S.var('a'); s = S.Group([a == 1, a != 1, a > 1, a >= 1, a < 1, a <= 1, 1 < a, 1 >= a])", {"a": (2, 3)}),
    ("a, b = S.var('a'), S.var('b'); s = S.Group([S.maximum(a, b), S.minimum(a, 2), S.hypot(3, a)])", {"a": (2,)}),
    ("a, b = S.var('a'), S.var('b'); s = S.Group([S.pow(a, b), S.power(a, 2), S.pow(2, a)])", {"a": (2,)}),
    ("s = S.var('a').reshape((2, -1)).sum(axis=1).expand_dims(0).flatten().mean()", {"a": (4, 3)}),
    ("s = S.var('a').squeeze().astype('float16').transpose((1, 0)).clip(0, 1)", {"a": (4, 1, 3)}),
    ("s = S.var('a').slice_axis(axis=1, begin=0, end=None).softmax().tile((2, 2)).swapaxes(0, 1)", {"a": (4, 3)}),
    ("s = S.zeros((2, 3)) + S.ones((2, 3), dtype='float32') * S.var('a')", {}),
    ("s = S.arange(3, stop=8) + S.full((5,), 2)", {}),
    ("s = S.zeros((2, 3))", {}),
    ("s = S.eye(3, dtype='float64')", {}),
    ("s = S.split_v2(S.var('a'), (1, 2), squeeze_axis=False)", {"a": (4, 3)}),
    ("s = S.linalg.gemm2(S.var('a'), S.var('b'))", {"a": (4, 3), "b": (3, 2)}),
    ("s = S.amp_cast(S.relu(S.amp_cast(S.var('a'), dtype='float16'), name='r'), dtype='float32')", {"a": (2,)}),
    ("with mx.name.Prefix('p_'):\n    s = S.relu(S.relu(S.var('a')), name='r')", {"a": (2,)}),
    (
        "with mx.AttrScope(ctx_group='g', __s__='1'):\n    s = S.FullyConnected(S.var('a'), num_hidden=2)",
        {},
    ),
    ("s = S.relu(S.var('a'), name='r', attr={'__a__': '1', 'lr_mult': '2'}, wd_mult=3, __n__=4)", {}),
    ("s = S.relu(S.var('a'), mirror_stage='1', force_mirroring='True', ctx_group='d')", {}),
    ("s = S.relu(S.var('a'), lr_mult_more=1)", {}),
    ("s = S.relu(S.var('a'), name='r', unknown='1')", {}),
    ("s = S.relu(S.var('a'), name='r')(a=S.var('b') + 1, name='other')", {"b": (2,)}),
    ("s = S.Group([S.relu(S.var('a'), name='r'), S.sigmoid(S.var('b'), name='q')])(a=S.var('z'), name='n')", {}),
    ("r = S.relu(S.var('a'), name='r'); s = S.tanh(r, name='t'); r._set_attr(__z__='1')", {"a": (2,)}),
    ("import copy; r = S.relu(S.var('a'), name='r'); s = copy.deepcopy(r); r._set_attr(__z__='1')", {"a": (2,)}),
    ("s = S.SliceChannel(S.var('a'), num_outputs=2, name='p'); s._set_attr(num_outputs='4', lr_mult='2')", {}),
    ("s = S.FullyConnected(S.BatchNorm(S.var('a')), num_hidden=2).get_internals()", {"a": (2, 3)}),
    ("s = (S.var('d') + S.var('d'))", {"d": (2, 3)}),
)


def random_case(seed: int) -> Case:
    """Return the code of a random graph."""
    rng = random.Random(seed)
    lines = ["x = [S.var('x0', shape=(1, 3, 8, 8)), S.var('x1', lr_mult=2), S.var('x2', dtype='float64')]"]

    def some() -> str:
        return f"x[{rng.randrange(max(0, len(lines) - 4), len(lines) + 2)}]"

    def call(name: str, inputs: int, **params: Any) -> str:
        extra = rng.choice(("", "", f", name='n{len(lines)}'", ", attr={'__t__': '1'}", ", lr_mult='0.5'"))
        given = "".join(f", {key}={value!r}" for key, value in params.items())
        return f"S.{name}({', '.join(some() for _ in range(inputs))}{given}{extra})"

    def pair(sign: str) -> str:
        return f"{some()} {sign} {rng.choice((some(), '2', '0.5'))}"

    def window(name: str) -> str:
        kernel = rng.choice(((3, 3), [2, 2], "(4, 4)"))
        filters, no_bias = rng.randint(1, 9), rng.choice((True, False))
        return call(name, rng.choice((1, 1, 2)), kernel=kernel, num_filter=filters, no_bias=no_bias)

    makers: tuple[Callable[[], str], ...] = (
        lambda: window("Deconvolution"),
        lambda: window("Convolution"),
        lambda: call("BatchNorm", 1, eps=rng.choice((1e-05, 0.001)), fix_gamma=rng.choice((True, False))),
        lambda: call("BatchNorm", 1, output_mean_var=True) + f"[{rng.randrange(3)}]",
        lambda: call("Activation", 1, act_type=rng.choice(("relu", "tanh", "softrelu"))),
        lambda: call("LeakyReLU", 1, act_type=rng.choice(("leaky", "prelu", "elu"))),
        lambda: call("FullyConnected", rng.choice((1, 3)), num_hidden=rng.randint(1, 99)),
        lambda: pair(rng.choice(("+", "-", "*", "/", "%", "**", ">", "=="))),
        lambda: f"{rng.choice(('2', '0.5', '-1'))} {rng.choice(('+', '-', '*', '/', '%', '**'))} {some()}",
        lambda: f"-{some()}",
        lambda: call(rng.choice(("Concat", "concat", "add_n", "ElementWiseSum")), rng.randint(1, 12)),
        lambda: call("SliceChannel", 1, num_outputs=3, axis=1) + f"[{rng.randrange(3)}]",
        lambda: call("split", 1, num_outputs=2, squeeze_axis=True) + "[1]",
        lambda: call("Pooling", 1, kernel=(2, 2), pool_type="avg", stride=(2, 2)),
        lambda: call("reshape", 1, shape=rng.choice(((0, -1), (-1,), (0, 0, -3)))),
        lambda: call(rng.choice(("Flatten", "flatten", "BlockGrad", "stop_gradient", "identity")), 1),
        lambda: call(rng.choice(("broadcast_add", "broadcast_plus", "elemwise_mul", "broadcast_like")), 2),
        lambda: call(rng.choice(("sum", "max", "mean")), 1, axis=(1, 2), keepdims=True),
        lambda: call("Dropout", 1, p=0.3),
        lambda: call("SoftmaxOutput", rng.choice((1, 2))),
        lambda: call("MakeLoss", 1, grad_scale=2.0),
        lambda: call("Embedding", 1, input_dim=5, output_dim=3),
        lambda: call("LayerNorm", 1),
        lambda: call("zeros", 0, shape=(2, 3)),
        lambda: call("amp_cast", 1, dtype="float16"),
        lambda: f"{some()}.astype('float32')",
        lambda: f"{some()}.sum(axis=1)",
    )
    for _ in range(rng.randint(2, 14)):
        line = f"x.append({rng.choice(makers)()})".replace("(, ", "(")
        scope = rng.choice(("", "", "", "", "with mx.AttrScope(ctx_group='g'): ", "with mx.name.Prefix('p_'): "))
        lines.append(scope + line)
    lines.append("s = " + rng.choice(("x[-1]", "x[-1]", "S.Group(x[-3:])", "x[-1].get_internals()")))
    return "\n".join(lines), {}


CASES: tuple[Case, ...] = (*WRITTEN, *(random_case(seed) for seed in range(60)))


def observe(mx: Any, case: Case) -> dict[str, Any]:
    """Return what a symbol shows of itself."""
    code, shapes = case
    found: dict[str, Any] = {"mx": mx, "S": mx.sym}
    with mx.name.NameManager():
        exec(compile(code, code, "exec"), found)
    s = found["s"]
    children = s.get_children()
    text, whole = s.tojson(), s.tojson(remove_amp_cast=False)
    seen = {
        "json": text,
        "loads": mx.sym.load_json(text).tojson() == text,
        "whole": None if whole == text else whole,
        "name": s.name,
        "repr": repr(s),
        "arguments": s.list_arguments(),
        "auxiliaries": s.list_auxiliary_states(),
        "inputs": s.list_inputs(),
        "outputs": s.list_outputs(),
        "children": None if children is None else children.list_outputs(),
        "internals": s.get_internals().list_outputs(),
        "attrs": s.attr_dict(),
        "own_attrs": s.list_attr(),
        "debug": s.debug_str(),
    }
    if shapes:
        seen["shapes"] = [[list(shape) for shape in part] for part in s.infer_shape_partial(**shapes)]
        types = s.infer_type_partial(**dict.fromkeys(shapes, "float16"))
        seen["types"] = [[None if dtype is None else dtype.__name__ for dtype in part] for part in types]
    return seen
