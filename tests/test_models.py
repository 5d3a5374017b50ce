"""Public models that use Deconvolution give what MXNet 1.9.1 computed for them."""

from __future__ import annotations

import numpy as np
import pytest

import shared_models
import tconv as mx
from tconv.symbol.program import Program


def split(params: dict[str, np.ndarray]) -> tuple[dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
    """Return arguments and auxiliary states by their own names."""
    args, states = (
        {key[4:]: mx.nd.array(array) for key, array in params.items() if key.startswith(kind)}
        for kind in ("arg:", "aux:")
    )
    return args, states


def labels(model: shared_models.Model) -> list[str]:
    """Return the arguments that only a loss looks at."""
    return [
        key for key in model.symbol.list_arguments() if key not in model.inputs and f"arg:{key}" not in model.params
    ]


def assert_outputs(model: shared_models.Model, got: list[mx.nd.NDArray]) -> None:
    assert len(got) == len(model.outputs)
    for array, expected, tolerance in zip(got, model.outputs, model.tolerances):
        assert array.shape == expected.shape
        worst = np.abs(array.asnumpy().astype(np.float64) - expected).max()
        assert worst <= tolerance, f"off by {worst}, allowed {tolerance}"


@shared_models.every_model
def test_by_executor(name: str) -> None:
    model = shared_models.load(name)
    args, states = split(model.params)
    shapes = {key: array.shape for key, array in model.inputs.items()}
    executor = model.symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    executor.copy_params_from(args, states, allow_extra_params=True)
    assert_outputs(model, executor.forward(is_train=False, **model.inputs))


@shared_models.every_model
def test_by_module(name: str) -> None:
    model = shared_models.load(name)
    args, states = split(model.params)
    module = mx.mod.Module(model.symbol, data_names=list(model.inputs), label_names=labels(model))
    module.bind([(key, array.shape) for key, array in model.inputs.items()], for_training=False)
    module.init_params(arg_params=args, aux_params=states, allow_extra=True)
    module.forward(mx.io.DataBatch([mx.nd.array(array) for array in model.inputs.values()]))
    assert_outputs(model, module.get_outputs())


@shared_models.every_model
def test_by_symbol_block(name: str) -> None:
    model = shared_models.load(name)
    inputs = [mx.sym.var(key) for key in (*model.inputs, *labels(model))]
    block = mx.gluon.SymbolBlock(model.symbol, inputs)
    params = {key[4:]: array for key, array in model.params.items()}
    for key, parameter in block.collect_params().items():
        parameter.initialize()
        parameter.set_data(mx.nd.array(params[key]))
    given = [mx.nd.array(array) for array in model.inputs.values()]
    found = block(*given, *(mx.nd.zeros((1, *model.outputs[0].shape[2:])) for _ in labels(model)))
    assert_outputs(model, found if isinstance(found, list) else [found])


def scalar(model: shared_models.Model, outputs: list[np.ndarray], heads: list[np.ndarray]) -> float:
    """Return the pixels' mean cross entropy of class 0 where the output is a loss's, else a weighted sum."""
    if labels(model):
        return -float(np.log(outputs[0][:, 0]).mean(axis=(1, 2)).sum())
    return float(sum((array * head).sum() for array, head in zip(outputs, heads)))


@shared_models.every_model
def test_gradients_against_differences(name: str) -> None:
    model = shared_models.load(name)
    program = Program(model.symbol)
    known = {key[4:]: array for key, array in model.params.items()} | model.inputs
    shape = model.outputs[0].shape
    arrays = {
        key: known[key].astype(np.float64) if key in known else np.zeros((shape[0], *shape[2:]))
        for key in (*program.arguments, *program.auxiliaries)
    }
    weights = [key for key in program.arguments if key in known and key not in model.inputs]
    wanted = list(dict.fromkeys([weights[0], weights[len(weights) // 2], weights[-1], next(iter(model.inputs))]))
    rng = np.random.default_rng(1)
    heads = [rng.standard_normal(array.shape) for array in model.outputs]
    grads = program.backward(program.forward(arrays, keep=True), heads, wanted)
    for key in wanted:
        # Along the gradient's own direction on some elements, among them the largest.
        flat = arrays[key].reshape(-1)
        order = np.abs(grads[key].reshape(-1)).argsort()[::-1]
        places = order[: max(1, min(20, len(order) // 4))]
        direction = np.sign(grads[key].reshape(-1)[places])
        expected = float(np.abs(grads[key].reshape(-1)[places]).sum())
        before, step = flat[places].copy(), 1e-8 * max(1e-2, float(np.abs(flat).max()))
        values = []
        for sign in (1, -1):
            flat[places] = before + sign * step * direction
            values.append(scalar(model, program.forward(arrays).outputs, heads))
        flat[places] = before
        found = (values[0] - values[1]) / (2 * step)
        assert found == pytest.approx(expected, rel=2e-3, abs=1e-6), key
