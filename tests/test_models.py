"""Public models that use Deconvolution give what MXNet 1.9.1 computed for them."""

from __future__ import annotations

import numpy as np

import shared_models
import tconv as mx


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
