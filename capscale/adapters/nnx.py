"""Flax NNX models: a copy whose layers have another `dot_general`, a module that holds what their formats need."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from capscale.adapters.layers import Layer, convolution, keep_masters, of_stack, precise, refuse_layer
from capscale.contraction import Contraction, dot_general
from capscale.coverage import Coverage, Found, cover
from capscale.errors import UserError
from capscale.formats.capabilities import draws, learns
from capscale.formats.schedule import needs_progress
from capscale.policy import Policy
from capscale.representation import Representation, weight_rows

_NORMS = (nnx.LayerNorm, nnx.RMSNorm, nnx.BatchNorm, nnx.GroupNorm)


class Progress(nnx.Variable):
    """Share of training done, set by `set_context`."""


class Key(nnx.Variable):
    """PRNG key of a layer's formats, set by `set_context`."""


class Product(nnx.Module):
    """The product of one layer; what its formats learn are parameters of it, for an optimizer to train."""

    remedy = "capscale.adapters.nnx.set_context(model, progress=..., key=...)"

    def __init__(self, path: str, representation: Representation, conv: bool, stack: tuple[int, ...]):
        self.path, self.representation, self.conv, self.stack = path, representation, conv, stack
        self.calibrating = False
        self.share: Progress | None = nnx.data(None)
        self.seed: Key | None = nnx.data(None)
        self.weights_step: nnx.Param | None = nnx.data(None)
        self.activations_step: nnx.Param | None = nnx.data(None)

    def __call__(self, x: Array, w: Array, *args: Any, **options: Any) -> Array:
        """As `jax.lax.dot_general`, or `jax.lax.conv_general_dilated` of a convolution."""
        if options.pop("out_sharding", None) is not None:
            raise UserError(
                f"{self.path}: compressed products take no out_sharding; use jax.lax.with_sharding_constraint"
            )
        if self.conv:
            return convolution(x, w, *args, representation=self.representation, owner=self, **options)
        return dot_general(x, w, args[0], self.representation, self)

    def progress(self) -> Array | None:
        """Progress of training, from its variable."""
        return None if self.share is None else self.share[...]

    def key(self) -> Array | None:
        """Another one for weights and for activations of a call."""
        return None if self.seed is None else self.seed[...]

    def learned(self, name: str, start: Callable[[], Array]) -> Array:
        """A parameter of this module; that of activations is made from the inputs that `compress` was given."""
        if getattr(self, name) is None:
            if not self.calibrating:
                raise UserError(f"{self.path}: {name} was not made; give compress inputs that reach this layer")
            setattr(self, name, nnx.Param(start()))
        return getattr(self, name)[...]


def compress(model: nnx.Module, policy: Policy, *inputs: Any, **kwargs: Any) -> nnx.Module:
    """A copy of an NNX model under a policy; Linear, LinearGeneral and Conv layers, in attention too.

    Args:
      model: it is left as it is.
      policy: a representation, or rules by the path of the kernel, `blocks/0/attention/query/kernel`.
      *inputs: arrays that the model is called on once, where activations learn a step; else not needed.
      **kwargs: keywords of that call.

    Raises:
      UserError: see `capscale.coverage.cover`; layers with a product or a precision of their own; formats that keep a
        state; learned activations without inputs.
    """
    coverage, copy = describe(model, policy), nnx.clone(model)
    layers = dict(_layers(copy))
    products = []
    for path, found in coverage.compressed.items():
        module, layer = layers[path]
        representation = found.representation
        assert representation is not None
        assert found.contraction is not None
        product = Product(path, representation, layer.conv, _stack(layer, found.shape))
        if learns(representation.weights.format):
            product.weights_step = nnx.Param(_first_step(module.kernel[...], found.contraction, representation))
        setattr(module, "conv_general_dilated" if layer.conv else "dot_general", nnx.data(product))
        module.promote_dtype = keep_masters(module.promote_dtype)
        products.append(product)
    learning = [product for product in products if learns(product.representation.activations.format)]
    if learning:
        _calibrate(copy, learning, inputs, kwargs)
    return copy


def describe(model: nnx.Module, policy: Policy, *inputs: Any, **kwargs: Any) -> Coverage:
    """Coverage of every parameter of the model by `policy`."""
    layers = dict(_layers(model))
    found = []
    for path, variable in _parameters(model):
        shape = tuple(variable[...].shape)
        if path not in layers:
            vector = len(shape) < 2
            why = "no factor of a product" if vector else "of no known layer"
            found.append(Found(path, shape, None, why, product=not vector))
            continue
        _, layer = layers[path]
        known = None if layer.contraction is None else of_stack(layer.contraction, layer.shape, shape)
        found.append(Found(path, shape, known, layer.why, layer.product))
    return cover(found, policy, lambda each, representation: _refuse(layers, each, representation))


def set_context(model: nnx.Module, *, progress: Array | float | None = None, key: Array | None = None) -> None:
    """Passes the share of training done and a key to all layers whose formats read them; ahead of every step.

    Each layer draws from a key of its own; a layer that is called twice in a step draws the same numbers twice.
    """
    for _, product in nnx.iter_graph(model):
        if isinstance(product, Product):
            formats = (product.representation.weights.format, product.representation.activations.format)
            if progress is not None and any(needs_progress(fmt) for fmt in formats):
                share = jnp.broadcast_to(jnp.asarray(progress, jnp.float32), product.stack)
                product.share = _set(product.share, Progress, share)
            if key is not None and any(draws(fmt) for fmt in formats):
                own = jax.random.fold_in(key, zlib.crc32(product.path.encode()))
                product.seed = _set(product.seed, Key, jax.random.split(own, product.stack) if product.stack else own)


def _set(variable: Any, kind: type[nnx.Variable], value: Array) -> Any:
    if variable is None:
        return kind(value)
    variable.set_value(value)
    return variable


def _parameters(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    for path, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            yield "/".join(map(str, path)), variable


def _layers(model: nnx.Module) -> Iterator[tuple[str, tuple[Any, Layer]]]:
    """Modules with what is known of their parameters, by the paths of these."""
    for path, module in nnx.iter_graph(model):
        place = "/".join(map(str, path))

        def at(name: str, place: str = place) -> str:
            return f"{place}/{name}" if place else name

        if isinstance(module, nnx.Embed):
            yield at("embedding"), (module, Layer(None, "looked up, not multiplied", product=False))
        elif isinstance(module, _NORMS):
            for name in ("scale", "bias"):
                yield at(name), (module, Layer(None, "no factor of a product", product=False))
        elif type(module) in (nnx.Linear, nnx.LinearGeneral, nnx.Conv):
            yield at("kernel"), (module, _layer(module))
            yield at("bias"), (module, Layer(None, "no factor of a product", product=False))


def _layer(module: Any) -> Layer:
    conv = isinstance(module, nnx.Conv)
    function, usual = ("conv_general_dilated", lax.conv_general_dilated) if conv else ("dot_general", lax.dot_general)
    if getattr(module, f"{function}_cls", None) is not None or getattr(module, function) not in (None, usual):
        return Layer(None, f"the kernel of a layer with a {function} of its own")
    if conv:
        shape = tuple(module.kernel_shape)
        return Layer(Contraction(tuple(range(len(shape) - 1))), shape=shape, problem=precise(module), conv=True)
    if isinstance(module, nnx.Linear):
        return Layer(Contraction(0), shape=(module.in_features, module.out_features), problem=precise(module))
    batch, inputs = tuple(module.batch_axis.values()), tuple(module.in_features)
    first = len(batch)
    contraction = Contraction(tuple(range(first, first + len(inputs))), tuple(range(first)))
    return Layer(contraction, shape=(*batch, *inputs, *module.out_features), problem=precise(module))


def _stack(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of the axes that `nnx.vmap` stacked layers along."""
    return shape[: len(shape) - len(layer.shape)]


def _refuse(layers: dict[str, tuple[Any, Layer]], found: Found, representation: Representation) -> None:
    _, layer = layers[found.path]
    refuse_layer(layer, found.path, representation)
    formats = (representation.weights.format, representation.activations.format)
    owns = any(learns(fmt) or draws(fmt) or needs_progress(fmt) for fmt in formats)
    if owns and found.shape[len(found.shape) - len(layer.shape) :] != layer.shape:
        raise UserError(
            f"{found.path}: layers are stacked along another axis than the first, and their formats need more"
        )


def _first_step(kernel: Array, contraction: Contraction, representation: Representation) -> Array:
    fmt = representation.weights.format

    def start(matrix: Array) -> Array:
        return fmt.initial_learned(weight_rows(matrix, representation))  # pyright: ignore[reportAttributeAccessIssue]

    for _ in contraction.axes(kernel.ndim).stacked:
        start = jax.vmap(start)
    return start(contraction.matrix(kernel))


def _calibrate(model: Any, learning: list[Product], inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Calls the model once, so that activations' steps start at what these inputs ask for."""
    if not inputs and not kwargs:
        raise UserError(f"{learning[0].path}: activations learn a step, which starts from inputs; give compress some")
    for product in learning:
        product.calibrating = True
    model(*inputs, **kwargs)
    for product in learning:
        product.calibrating = False
        if product.activations_step is None:
            raise UserError(f"{product.path}: activations learn a step, and the inputs did not reach this layer")
