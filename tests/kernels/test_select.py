"""Selection by magnitude against numpy's partition, and the two searches against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from capscale.kernels.select import kth_magnitude, largest, search
from capscale.kernels.select.reference import kth_magnitude as bisected
from jax.sharding import NamedSharding, PartitionSpec
from support.cases import parametrize

RNG = np.random.default_rng(0)
DATA = {
    "gaussian": RNG.standard_normal((40, 96)),
    "heavy": np.exp(12 * RNG.standard_normal((40, 96))),
    "ties": RNG.integers(-3, 4, (40, 96)).astype(float),
    "constant": np.full((40, 96), -1.5),
    "zeros": np.zeros((40, 96)),
    "mostly-zero": np.where(RNG.random((40, 96)) < 0.98, 0.0, RNG.standard_normal((40, 96))),
    "tiny": RNG.standard_normal((40, 96)) * 1e-37,
    "huge": RNG.standard_normal((40, 96)) * 1e38,
}


BOTH_AXES = ((-1,), (-2, -1))
SEARCHES = {
    axes: tuple(jax.jit(lambda x, k, axes=axes, f=f: f(x, k, axes)) for f in (kth_magnitude, bisected))
    for axes in BOTH_AXES
}
KEEPERS = {axes: jax.jit(lambda x, k, axes=axes: largest(x, k, axes)[0]) for axes in BOTH_AXES}


def kth_oracle(x: np.ndarray, k: int, axes: tuple[int, ...]) -> np.ndarray:
    magnitude = np.abs(x).reshape(-1, x.shape[-1]) if axes == (-1,) else np.abs(x).reshape(1, -1)
    found = np.partition(magnitude, magnitude.shape[1] - k, axis=1)[:, magnitude.shape[1] - k]
    return found.reshape(-1, 1) if axes == (-1,) else found.reshape(1, 1)


FLOAT32 = [(name, jnp.float32) for name in DATA]
NARROW = [("gaussian", jnp.bfloat16), ("ties", jnp.bfloat16), ("gaussian", jnp.float16)]


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
@pytest.mark.parametrize(("name", "dtype"), FLOAT32 + NARROW)
def test_kth_magnitude_is_exact(name, axes, dtype):
    x = jnp.asarray(np.clip(DATA[name], -3e38, 3e38), jnp.float32).astype(dtype)
    host = np.asarray(x.astype(jnp.float32))
    host = np.where(np.abs(host) < 2.0**-126, 0.0, host)  # CPUs flush what is below the normal range
    size = x.shape[-1] if axes == (-1,) else x.size
    find, by_bits = SEARCHES[axes]
    for k in (1, 2, size // 3, size // 2, size - 1, size):
        expected = kth_oracle(host, k, axes)
        for found in (find(x, k), by_bits(x, k)):
            assert found.dtype == dtype
            got = np.asarray(found.astype(jnp.float32))
            np.testing.assert_array_equal(np.where(got < 2.0**-126, 0.0, got), expected)


@pytest.mark.parametrize("axes", [(-1,), (-2, -1)])
@pytest.mark.parametrize("name", ["gaussian", "ties", "constant", "mostly-zero"])
def test_exactly_k_survive_and_ties_go_to_the_first(name, axes):
    x = jnp.asarray(np.clip(DATA[name], -3e38, 3e38), jnp.bfloat16)
    host = np.asarray(x.astype(jnp.float32)).astype(np.float64)
    flat = host.reshape(-1, x.shape[-1]) if axes == (-1,) else host.reshape(1, -1)
    keep = KEEPERS[axes]
    for k in (1, 17, flat.shape[1] // 2, flat.shape[1]):
        expected = np.zeros(flat.shape, bool)
        order = np.argsort(-np.abs(flat), axis=1, kind="stable")[:, :k]
        np.put_along_axis(expected, order, True, axis=1)
        np.testing.assert_array_equal(np.asarray(keep(x, k)).reshape(flat.shape), expected)


def misleading(low: float, high: float) -> np.ndarray:
    """Every seventh value is about `low`, the others about `high`."""
    x = high + RNG.random((40, 96))
    x.ravel()[::7] = low + RNG.random(x.ravel()[::7].shape)
    return x


@parametrize("dtype", [jnp.float32, jnp.bfloat16], default=1, ids=str)
@parametrize(
    "name",
    ["gaussian", "misled up", "misled down", "far up", "not finite", *(name for name in DATA if name != "gaussian")],
    default=5,
)
def test_a_sample_changes_no_result(name, dtype, monkeypatch):
    """Of Gaussian values, of ties, and where every value of the sample lies on one side of the k-th."""
    monkeypatch.setattr(search, "SAMPLED", 1024)
    monkeypatch.setattr(search, "STRIDE", 7)
    more = {
        "misled up": misleading(9, 1),
        "misled down": misleading(1, 9),
        "far up": misleading(1e-30, 1e30),
        "not finite": np.where(RNG.random((40, 96)) < 0.2, np.inf, misleading(1, 9)),
    }
    x = jnp.asarray(np.clip((DATA | more)[name], -3e38, 3e38 if name != "not finite" else np.inf), jnp.float32)
    pattern, dropped = search.pattern_of(jnp.stack([x, x[::-1] * 2]).astype(dtype))
    find = jax.jit(lambda k: search.kth_pattern(pattern, k, (-2, -1), dropped, True))
    host = np.sort(np.asarray(pattern).reshape(2, -1))
    for k in (1, 2, 40, x.size // 10, x.size // 7, x.size // 2, x.size - 2, x.size):
        found = find(k)
        assert found.shape == (2, 1, 1)
        np.testing.assert_array_equal(np.asarray(found).ravel(), host[:, -k])


@pytest.fixture
def passes(monkeypatch):
    """How many passes each search of patterns has taken, the newest last."""
    taken = []

    class Counted:
        def __getattr__(self, name):
            return getattr(jax.lax, name)

        def while_loop(self, going, body, start):
            end = jax.lax.while_loop(going, body, start)
            taken.append(int(end.passes))
            return end

    monkeypatch.setattr(search, "lax", Counted())
    return taken


@pytest.mark.ci
def test_a_sample_saves_passes(passes):
    """Of a normal matrix, by the count of passes over all of its values."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((512, 384)), jnp.float32)
    assert x.size >= search.SAMPLED
    pattern, _ = search.pattern_of(x)
    for share in (0.01, 0.1, 0.5):
        k = int(share * x.size)
        found = [int(search.kth_pattern(pattern, k, (-2, -1), 0, whole)[0, 0]) for whole in (False, True)]
        assert found[0] == found[1]
        of_all, _, after_sample = passes[-3:]
        assert after_sample <= 10
        assert after_sample < of_all


@pytest.mark.ci
def test_a_sample_is_taken_on_every_device_by_itself(monkeypatch):
    """Inside of shard_map, where each device has whole matrices, and under vmap."""
    monkeypatch.setattr(search, "SAMPLED", 1024)
    monkeypatch.setattr(search, "STRIDE", 7)
    pattern, _ = search.pattern_of(jnp.asarray(RNG.standard_normal((2, 40, 96)), jnp.float32))
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def find(pattern):
        return search.kth_pattern(pattern, 100, (-2, -1), 0, True)

    apart = jax.jit(jax.shard_map(find, mesh=mesh, in_specs=PartitionSpec("d"), out_specs=PartitionSpec("d")))
    expected = np.sort(np.asarray(pattern).reshape(2, -1))[:, -100]
    for found in (find(pattern), apart(pattern), jax.vmap(find)(pattern)):
        np.testing.assert_array_equal(np.asarray(found).ravel(), expected)


@pytest.mark.parametrize(("sample", "others"), [(9, 1), (1, 9), (1e-30, 1e30), (1e30, 1e-30)])
def test_an_end_on_the_wrong_side_is_moved_in_few_passes(sample, others, passes, monkeypatch):
    monkeypatch.setattr(search, "SAMPLED", 1024)
    monkeypatch.setattr(search, "STRIDE", 7)
    pattern, _ = search.pattern_of(jnp.asarray(misleading(sample, others), jnp.float32))
    search.kth_pattern(pattern, pattern.size // 2, (-2, -1), 0, True)
    assert 20 < passes[-1] < 120


def test_a_tie_rule_that_keeps_all_would_be_seen():
    x = jnp.ones((4, 8))
    naive = jnp.abs(x) >= kth_magnitude(x, 3)
    assert int(naive.sum()) != int(largest(x, 3)[0].sum()) == 12


def test_no_sort_is_compiled():
    text = jax.jit(lambda x: largest(x, 100, (-2, -1))[0]).lower(jnp.zeros((40, 96))).compile().as_text()
    assert text is not None
    assert "sort(" not in text
    assert "TopK" not in text


def test_the_same_on_two_devices():
    x = jnp.asarray(DATA["ties"], jnp.float32)
    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    keep = jax.jit(lambda x: largest(x, x.size // 2, (-2, -1))[0])
    for spec in (PartitionSpec("fsdp", None), PartitionSpec(None, "fsdp")):
        np.testing.assert_array_equal(keep(jax.device_put(x, NamedSharding(mesh, spec))), keep(x))


def test_nan_counts_as_largest():
    x = jnp.asarray([[1.0, jnp.nan, 3.0, jnp.inf]])
    np.testing.assert_array_equal(largest(x, 2)[0], [[False, True, False, True]])
