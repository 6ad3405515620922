"""Flax Linen models: the products of their layers done by `capscale.contraction.dot_general`.

The model stays as it is. While it runs, `nn.intercept_methods` gives each compressed layer another `dot_general`, which
sees the true contraction, whatever the shape of the kernel: in attention, `nn.scan`, `nn.remat` and `nn.vmap` too.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jax import Array, lax

from capscale.adapters.layers import Layer, convolution, keep_masters, of_stack, precise, refuse_layer
from capscale.contraction import Contraction, dot_general
from capscale.coverage import Coverage, Found, cover
from capscale.errors import UserError
from capscale.policy import Policy

STREAM = "formats"
"""Random stream that formats draw from: `apply(..., rngs={"formats": key})`."""
COLLECTION = "capscale"
"""Collection with the share of training done: `apply({"params": ..., "capscale": {"progress": 0.5}}, ...)`."""

_PRODUCTS = (nn.Dense, nn.DenseGeneral)


class _Owner(NamedTuple):
    """A layer while it runs."""

    module: nn.Module
    path: str
    share: Any

    @property
    def remedy(self) -> str:
        """How to pass them."""
        return (
            f'apply({{"params": ..., "{COLLECTION}": {{"progress": ...}}}}, ..., rngs={{"{STREAM}": key}}), and name '
            f'"{STREAM}" in split_rngs of the nn.scan or nn.vmap around it'
        )

    def progress(self) -> Array | float | None:
        """Progress of training, from the collection."""
        return self.share

    def key(self) -> Array | None:
        """From the stream, or that of parameters while they are made."""
        known = self.module.has_rng(STREAM) or self.module.is_initializing()
        return self.module.make_rng(STREAM) if known else None

    def learned(self, name: str, start: Callable[[], Array]) -> Array:
        """A parameter beside the kernel."""
        if not self.module.is_initializing() and not self.module.has_variable("params", name):
            place = self.path.rpartition("/")[0]
            raise UserError(f"{self.path}: its format learns {place}/{name}, which is no parameter; make it with init")
        return self.module.param(name, lambda _: start())


@dataclass(frozen=True)
class CompressedLinen:
    """A Linen model under a policy: `init` and `apply` are those of the model.

    Its parameters are the model's; formats that learn numbers add them beside the kernel, `weights_step` and
    `activations_step`, for an optimizer to train.
    """

    model: nn.Module
    coverage: Coverage

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """`model.init`, with what formats learn."""
        with nn.intercept_methods(self._interceptor(None)):
            return self.model.init(rngs, *args, **kwargs)

    def init_with_output(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """`model.init_with_output`, with what formats learn."""
        with nn.intercept_methods(self._interceptor(None)):
            return self.model.init_with_output(rngs, *args, **kwargs)

    def apply(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """`model.apply` with compressed products; gradients pass through the estimators to the parameters."""
        others = {name: tree for name, tree in variables.items() if name != COLLECTION}
        with nn.intercept_methods(self._interceptor(variables.get(COLLECTION, {}).get("progress"))):
            return self.model.apply(others, *args, **kwargs)

    def _interceptor(self, progress: Any) -> Any:
        known = {found.path for found in self.coverage.parameters}
        compressed = self.coverage.compressed

        def replaced(module: nn.Module) -> dict[str, Any]:
            path = _kernel(module)
            if path not in known:
                raise UserError(f"{path} was not there when the model was compressed; give inputs that reach it")
            if path not in compressed:
                return {}
            representation = compressed[path].representation
            assert representation is not None
            owner = _Owner(module, path, progress)

            def multiply(x: Array, w: Array, dims: Any, **_: Any) -> Array:
                return dot_general(x, w, dims, representation, owner)

            convolve = partial(convolution, representation=representation, owner=owner)
            return {"dot_general": multiply} if type(module) in _PRODUCTS else {"conv_general_dilated": convolve}

        return partial(_intercept, replaced)


def compress(model: nn.Module, policy: Policy, *inputs: Any, **kwargs: Any) -> CompressedLinen:
    """A Linen model under a policy.

    Args:
      model: any module; its Dense, DenseGeneral and Conv layers, in attention too, are what can be compressed.
      policy: a representation, or rules by the path of the kernel, `encoder/attention/query/kernel`.
      *inputs: what `model.apply` takes, arrays or `jax.ShapeDtypeStruct`s: the model is traced, not run.
      **kwargs: keywords of it.

    Raises:
      UserError: see `capscale.coverage.cover`; layers with a product or a precision of their own; formats that keep a
        state.
    """
    return CompressedLinen(model, describe(model, policy, *inputs, **kwargs))


def describe(model: nn.Module, policy: Policy, *inputs: Any, **kwargs: Any) -> Coverage:
    """Coverage of every parameter of the model by `policy`."""
    layers, params = _traced(model, inputs, kwargs)
    leaves = jax.tree_util.tree_leaves_with_path(nn.meta.unbox(params))
    found = [_found("/".join(str(key.key) for key in path), leaf.shape, layers) for path, leaf in leaves]
    return cover(found, policy, lambda each, representation: refuse_layer(layers[each.path], each.path, representation))


def _traced(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Layer], Any]:
    """Every layer that the model runs, by the path of its weights, and the shapes of its parameters."""
    if not inputs and not kwargs:
        raise UserError(
            "a Linen model has no layers until it is traced; give example inputs: compress(model, policy, x)"
        )
    layers: dict[str, Layer] = {}

    def watched(module: nn.Module) -> dict[str, Any]:
        path = _kernel(module)
        own = [n for n in _replaceable(module) if getattr(module, n) is not None]
        if own:
            layers[path] = Layer(None, f"the kernel of a layer with a {own[0]} of its own")
            return {}
        problem = precise(module)

        def multiply(x: Array, w: Array, dims: Any, **options: Any) -> Array:
            (_, inputs), (_, batch) = dims
            layers[path] = Layer(Contraction(tuple(inputs), tuple(batch)), shape=w.shape, problem=problem)
            return lax.dot_general(x, w, dims, **options)

        def convolve(x: Array, w: Array, *args: Any, **options: Any) -> Array:
            layers[path] = Layer(Contraction(tuple(range(w.ndim - 1))), shape=w.shape, problem=problem, conv=True)
            return lax.conv_general_dilated(x, w, *args, **options)

        return {"dot_general": multiply} if type(module) in _PRODUCTS else {"conv_general_dilated": convolve}

    def note_others(module: nn.Module) -> None:
        for name, leaf in nn.meta.unbox(module.variables.get("params", {})).items():
            path = "/".join([*module.path, name])
            if type(module) is nn.Embed:
                layers[path] = Layer(None, "looked up, not multiplied", product=False)
            elif not isinstance(leaf, Mapping) and (leaf.ndim < 2 or name == "bias"):
                layers[path] = Layer(None, "no factor of a product", product=False)

    with nn.intercept_methods(partial(_intercept, watched, note_others=note_others)):
        key = jax.random.key(0)
        rngs = {"params": key, "dropout": key, STREAM: key}
        variables = jax.eval_shape(lambda inputs: model.init(rngs, *inputs, **kwargs), inputs)
    return layers, variables.get("params", {})


def _found(path: str, shape: tuple[int, ...], layers: dict[str, Layer]) -> Found:
    layer = layers.get(path)
    if layer is None:
        return Found(path, shape, None, "of no known layer")
    if layer.contraction is None:
        return Found(path, shape, None, layer.why, layer.product)
    return Found(path, shape, of_stack(layer.contraction, layer.shape, shape))


def _kernel(module: nn.Module) -> str:
    return "/".join([*module.path, "kernel"])


def _replaceable(module: nn.Module) -> tuple[str, str]:
    name = "dot_general" if type(module) in _PRODUCTS else "conv_general_dilated"
    return name, f"{name}_cls"


def _intercept(
    replaced: Callable[[nn.Module], dict[str, Any]],
    run: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
    *,
    note_others: Callable[[nn.Module], None] = lambda module: None,
) -> Any:
    """Runs a method; `__call__` of layers with the functions that `replaced` gives in place of their own."""
    module = context.module
    known = context.method_name == "__call__" and type(module) in (*_PRODUCTS, nn.Conv)
    functions = replaced(module) if known else {}
    if functions:
        functions["promote_dtype"] = keep_masters(module.promote_dtype)
    with _changed(module, functions):
        y = run(*args, **kwargs)
    note_others(module)
    return y


@contextmanager
def _changed(module: nn.Module, functions: dict[str, Any]) -> Iterator[None]:
    """Fields of a frozen module, changed for one call of it: a clone would be another module, with another scope."""
    own = {name: getattr(module, name) for name in functions}
    for name, function in functions.items():
        object.__setattr__(module, name, function)
    try:
        yield
    finally:
        for name, function in own.items():
            object.__setattr__(module, name, function)
