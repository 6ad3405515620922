"""Every host's linear layer is `capscale.linear`, bit for bit, under the transforms that its users apply."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.cases import parametrize
from support.hosts import HOSTS

from capscale.representation import Operand, Representation, linear, operand

INT8 = operand("int8", per_token=True)
REPRESENTATIONS = {
    "int4": Representation(operand("int4")),
    "int4-int8-rotated": Representation(operand("int4"), INT8, hadamard=16),
    "int4-int8-signs": Representation(operand("int4"), INT8, hadamard=12, signs=3),
    "2:4-rotated-alone": Representation(operand("2:4"), hadamard=16),
    "top50": Representation(operand("top50 [fw]")),
    "activations": Representation(Operand(), INT8),
}


@pytest.fixture(params=HOSTS)
def host(request):
    return HOSTS[request.param]


def same_bits(a, b):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


def arrays(rows: int = 6):
    kernel, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(32, 24), (rows, 32)]))
    return kernel * 0.1, x


def reference(host, r):
    """The same layer as a bare `linear`, of parameters that lie as the host has them."""
    if not host.by_vector:
        return lambda kernel, x: linear(x, kernel, r)

    def apply(weight, x):
        function = lambda x: linear(x, weight.T, r)  # noqa: E731
        for _ in x.shape[:-1]:
            function = jax.vmap(function)
        return function(x)

    return apply


def with_gradients(apply, params, x):
    """y, and the gradients of a weighted sum of it, jitted."""
    weigh = jnp.linspace(-1, 1, 24)[None]
    run = jax.jit(jax.grad(lambda p, x: jnp.sum(apply(p, x) * weigh), argnums=(0, 1)))
    return jax.jit(apply)(params, x), *run(params, x)


def pair(host, name=None):
    """(parameters, function, kernel of parameters) of the host's layer and of the bare one, and x."""
    kernel, x = arrays()
    r = REPRESENTATIONS[name or ("int4-int8-rotated" if host.activations else "2:4-rotated-alone")]
    bare = (
        (kernel.T, reference(host, r), lambda w: w.T) if host.by_vector else (kernel, reference(host, r), lambda w: w)
    )
    return host.layer(kernel, r), bare, x


@parametrize("name", list(REPRESENTATIONS), default=["int4-int8-signs"])
def test_values_and_gradients_are_those_of_linear(host, name):
    if not host.activations and not REPRESENTATIONS[name].activations.is_dense:
        pytest.skip("a tree of parameters has no activations: refused, see test_pytree.py")
    (params, apply, kernel_of), (weight, bare, bare_of), x = pair(host, name)
    y, into_params, into_x = with_gradients(apply, params, x)
    expected, into_weight, expected_into_x = with_gradients(bare, weight, x)
    same_bits(y, expected)
    same_bits(kernel_of(into_params), bare_of(into_weight))
    same_bits(into_x, expected_into_x)
    assert np.abs(np.asarray(y) - np.asarray(x) @ np.asarray(arrays()[0])).max() > 1e-3, "compressed"


TRANSFORMS = {
    "eager": lambda apply: apply,
    "vmap": lambda apply: lambda p, x: jax.vmap(apply, in_axes=(None, 0))(p, x[:, None])[:, 0],
    "scan": lambda apply: lambda p, x: jax.lax.scan(lambda c, x: (c, apply(p, x[None])[0]), None, x)[1],
    "remat": jax.checkpoint,
}


@pytest.mark.ci
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_it_is_linear_transformed_alike(host, transform):
    (params, apply, kernel_of), (weight, bare, bare_of), x = pair(host)
    transformed = TRANSFORMS[transform]
    y, into_params, into_x = with_gradients(transformed(apply), params, x)
    expected, into_weight, expected_into_x = with_gradients(transformed(bare), weight, x)
    same_bits(y, expected)
    np.testing.assert_allclose(kernel_of(into_params), bare_of(into_weight), rtol=1e-6, atol=1e-6)
    same_bits(into_x, expected_into_x)


@pytest.mark.ci
def test_on_two_devices_it_is_linear_on_two_devices(host):
    (params, apply, kernel_of), (weight, bare, bare_of), x = pair(host)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    y, into_params, into_x = with_gradients(apply, params, split)
    assert len(y.sharding.device_set) == 2
    expected, into_weight, expected_into_x = with_gradients(bare, weight, split)
    same_bits(y, expected)
    same_bits(into_x, expected_into_x)
    np.testing.assert_allclose(kernel_of(into_params), bare_of(into_weight), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(y, apply(params, x), rtol=1e-5, atol=1e-5)


def test_training_lowers_the_loss(host):
    (params, apply, kernel_of), _, x = pair(host)
    target = jnp.tanh(x[:, :24])
    optimizer = optax.adam(3e-2)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(lambda p: jnp.mean(jnp.square(apply(p, x) - target)))(params)
        with jax.numpy_dtype_promotion("standard"):  # optax's powers of an integer count
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses, first = optimizer.init(params), [], kernel_of(params)
    for _ in range(20):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 3
    assert not np.array_equal(kernel_of(params), first)
