"""Stages that compose: sparsity of units, then a grid or a codebook; outliers beside any rounding. Float64 oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import parametrize

from capscale.analysis.operands import facts
from capscale.errors import UserError
from capscale.estimators import Hypersphere
from capscale.formats import NM, Absmax, Int, Learned, Outliers, Scalar, SparseQuantized, TopK, Vector, catalog
from capscale.formats.base import NO_CONTEXT, granularity_of, per_row
from capscale.formats.distributions import NORMAL
from capscale.formats.packing import pack, unpack
from capscale.formats.rotated import ThenRotated
from capscale.formats.serialize import from_json, to_json
from capscale.formats.survivors import LargeBlocks
from capscale.formats.vector import codebook
from capscale.gaussian_mse import gmse
from capscale.representation import Operand

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 64)).astype(np.float32)


def blocks(x, rows, columns):
    """(rows / r, columns / c, r, c), float64."""
    shape = (x.shape[0] // rows, rows, x.shape[1] // columns, columns)
    return x.astype(np.float64).reshape(shape).swapaxes(1, 2)


def kept_blocks(x, unit, share):
    """Which entries stay, by the norms of their blocks, of a whole matrix."""
    rows, columns = unit if isinstance(unit, tuple) else (1, unit)
    norms = np.square(blocks(x, rows, columns)).sum((-1, -2))
    order = np.argsort(-norms, axis=None, kind="stable")[: round(share * norms.size)]
    mask = np.zeros(norms.size, bool)
    mask[order] = True
    return mask.reshape(norms.shape).repeat(rows, 0).repeat(columns, 1)


@pytest.mark.parametrize("unit", [2, 4, (2, 1), (4, 8), (16, 16), (32, 64)])
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_the_units_of_largest_norm_stay(unit, sparsity):
    if unit == (32, 64):  # one unit in all
        with pytest.raises(UserError, match="would prune all 1 values") if sparsity == 0.5 else _nothing():
            TopK(sparsity, unit=unit).project(jnp.asarray(X), NO_CONTEXT)
        return
    found = TopK(sparsity, unit=unit).project(jnp.asarray(X), NO_CONTEXT)
    keep = kept_blocks(X, unit, 1 - sparsity)
    np.testing.assert_array_equal(found.keep, keep)
    np.testing.assert_array_equal(found.value, np.where(keep, X, 0))
    rows, columns = unit if isinstance(unit, tuple) else (1, unit)
    least = np.sqrt(np.square(blocks(X, rows, columns)).mean((-1, -2)))[keep[::rows, ::columns]].min()
    np.testing.assert_allclose(np.broadcast_to(found.threshold, X.shape), least, rtol=1e-6)


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


def test_units_of_a_row_are_chosen_in_each_row():
    found = TopK(0.5, "row", unit=4).project(jnp.asarray(X), NO_CONTEXT)
    expected = np.vstack([kept_blocks(row[None], 4, 0.5) for row in X])
    np.testing.assert_array_equal(found.keep, expected)
    assert per_row(TopK(0.5, unit=(16, 16))) == TopK(0.5, "row", unit=16)


@pytest.mark.parametrize("unit", [2, 3, 4, (4, 4), (16, 16)])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_error_of_units_is_what_a_large_tensor_has(unit, sparsity):
    size = unit if isinstance(unit, int) else unit[0] * unit[1]
    norms = np.square(np.random.default_rng(1).standard_normal((2**21 // size, size))).sum(-1)
    pruned = np.sort(norms)[: round(sparsity * len(norms))]
    assert gmse(TopK(sparsity, unit=unit)).value == pytest.approx(pruned.sum() / norms.size / size, rel=1e-2)
    assert gmse(TopK(sparsity, unit=unit)).standard_error == 0


@pytest.mark.parametrize("size", [2, 4, 256])
def test_the_law_of_survivors_of_blocks_is_that_of_draws(size):
    law = LargeBlocks(size, 0.5)
    x = np.random.default_rng(2).standard_normal((2**21 // size, size))
    norms = np.square(x).sum(-1, keepdims=True)
    kept = np.where(norms >= law.squared, x, np.nan)
    allowed = 4 * 0.5 / np.sqrt(len(norms))  # a block is kept or not
    for a, b in ((-np.inf, np.inf), (0.0, 1.0), (-0.3, 2.5), (1.5, np.inf)):
        inside = kept[(kept > a) & (kept < b)]
        draws = np.array([inside.size, inside.sum(), np.square(inside).sum()]) / x.size
        np.testing.assert_allclose([float(m) for m in law.moments(np.array(a), np.array(b))], draws, atol=allowed)
    whole = law.moments(np.array(-np.inf), np.array(np.inf))
    assert float(whole[0]) == pytest.approx(0.5, abs=1e-12)
    assert float(whole[2]) == pytest.approx(law.energy, abs=1e-12)


def test_pairs_are_the_limit_of_many_pairs_in_a_run():
    """NM in pairs, of runs that grow, comes to the law of blocks of two."""
    errors = [abs(gmse(NM(m // 2, m, unit=2)).value - gmse(TopK(0.5, unit=2)).value) for m in (4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.04


@pytest.mark.parametrize(
    "sparse", [TopK(0.5, unit=4), TopK(0.5, unit=2), NM(4, 8, unit=2), NM(4, 16, unit=4), TopK(0.25, unit=(2, 4))]
)
def test_a_codebook_on_whole_vectors_of_survivors(sparse):
    """Vectors that stay go to the nearest codeword, in units of the survivors' RMS; the others are zero."""
    vector = Vector(2, 16)
    found = SparseQuantized(sparse, vector).project(jnp.asarray(X), NO_CONTEXT)
    keep = np.asarray(sparse.project(jnp.asarray(X), NO_CONTEXT).keep)
    scale = np.sqrt(np.where(keep, X.astype(np.float64) ** 2, 0).sum(-1) / keep.sum(-1))
    words = codebook(2, 16).astype(np.float64)
    runs = X.reshape(32, 32, 2) / scale[:, None, None]
    nearest = words[np.square(runs[:, :, None] - words).sum(-1).argmin(-1)]
    expected = np.where(keep, (nearest * scale[:, None, None]).reshape(X.shape), 0)
    np.testing.assert_allclose(found.value, expected, rtol=1e-5, atol=1e-6)
    norms = np.linalg.norm(runs, axis=-1).repeat(2, -1) / np.linalg.norm(words, axis=1).max()
    np.testing.assert_allclose(found.relative_magnitude, norms, rtol=1e-5)


@pytest.mark.parametrize("scales_from", ["survivors", "dense"])
def test_a_codebook_takes_its_scale_from_survivors_or_from_the_row(scales_from):
    format = SparseQuantized(TopK(0.75, "row", unit=2), Vector(2, 16), scales_from)
    plain = SparseQuantized(TopK(0.75, "row", unit=2), Vector(2, 16))
    found, other = (f.project(jnp.asarray(X), NO_CONTEXT).value for f in (format, plain))
    assert bool((found == other).all()) == (scales_from == "survivors")


def test_survivors_on_a_ternary_grid():
    found = catalog.find("2:4+ternary").project(jnp.asarray(X), NO_CONTEXT)
    for row, kept in zip(np.asarray(found.value), np.asarray(found.keep), strict=True):
        assert len(np.unique(np.abs(row[kept]))) <= 2  # zero and one magnitude
        assert not row[~kept].any()
    assert catalog.find("2:4+ternary").bits == pytest.approx(np.log2(3) / 2 + np.log2(6) / 4, abs=1e-12)


@pytest.mark.parametrize("name", ["nvfp4-outliers1", "mxfp4-outliers1", "higgs-d2-n16-outliers1", "int4-outliers5"])
def test_outliers_stand_beside_any_rounding(name):
    """The largest of every row in bfloat16; the others as the inner format has them with those set to zero."""
    format = catalog.find(name)
    x = jnp.asarray(RNG.standard_normal((8, 256)).astype(np.float32))
    far = np.zeros(x.shape, bool)
    for row, magnitudes in enumerate(np.abs(np.asarray(x))):
        far[row, np.argsort(-magnitudes)[: round(format.fraction * 256)]] = True
    found = np.asarray(format.project(x, NO_CONTEXT).value)
    np.testing.assert_array_equal(found[far], np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))[far])
    rest = jnp.where(far, 0.0, x)
    inner = format.inner.project_by(format.inner.measure(rest, NO_CONTEXT, jnp.asarray(~far)), rest)
    np.testing.assert_array_equal(found[~far], np.asarray(inner.value)[~far])
    assert gmse(format).value < gmse(format.inner).value
    assert granularity_of(format) == granularity_of(format.inner)
    assert granularity_of(per_row(format)) == "row"


def test_bits_of_outliers_count_what_is_stored():
    assert catalog.find("int4-outliers1").bits == pytest.approx(4 + 0.01 * (32 - 4))
    assert catalog.find("higgs-d2-n16-outliers1").bits == pytest.approx(catalog.find("higgs-d2-n16").bits + 0.32)


NEW = [
    "2:4+ternary",
    "top50-units4",
    "top50-units16x16",
    "top50-units16x16+int4",
    "4:8-pairs+higgs-d2-n16",
    "top50-units4+higgs-d4-n256",
    "nvfp4-outliers1",
    "higgs-d2-n16-outliers1",
    "top12.5-units2x8",
    "top25-units8+mxfp4",
]


@parametrize("name", NEW, default=2)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_packed_values_are_the_projected_ones(name, dtype):
    format = catalog.find(name)
    x = jnp.asarray(np.random.default_rng(5).standard_normal((32, 256)), dtype)
    packed = pack(format, x)
    np.testing.assert_array_equal(unpack(packed), jax.jit(lambda x: format.project(x, NO_CONTEXT).value)(x))
    assert from_json(to_json(format)) == format
    assert catalog.find(catalog.label(format)) == format


def test_json_of_what_there_was_says_nothing_new():
    assert to_json(TopK(0.5)) == {
        "type": "TopK",
        "sparsity": 0.5,
        "scope": "matrix",
        "schedule": {"type": "Constant"},
    }
    for name in ("2:4+int4", "top50+rotated-int4"):
        assert set(to_json(catalog.find(name))) == {"type", "sparse", "scalar", "scales_from"}
        assert from_json(to_json(catalog.find(name))) == catalog.find(name)


def test_a_codebook_on_survivors_trains_by_its_own_estimator():
    assert Operand(catalog.find("4:8-pairs+higgs-d2-n16")).backward() == Hypersphere(1.6)
    assert Operand(catalog.find("higgs-d2-n16-outliers1")).backward() == Hypersphere(1.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseQuantized(NM(2, 4), Vector(2, 16)), r"vectors of 2 values must stay or go whole; .*unit=2"),
        (lambda: SparseQuantized(TopK(0.5, unit=(2, 3)), Vector(2, 16)), "must stay or go whole"),
        (lambda: SparseQuantized(NM(2, 4), TopK(0.5)), "must be a Scalar or a Vector with measured scales"),
        (lambda: SparseQuantized(NM(2, 4), Scalar(Int(4), Learned())), "must be a Scalar or a Vector with measured"),
        (lambda: ThenRotated(NM(4, 8, unit=2), Vector(2, 16)), "the second must be a Scalar"),
        (lambda: Outliers(NM(2, 4), 0.1), "must be a Scalar or a Vector with measured scales"),
        (lambda: TopK(0.5, unit=0), r"TopK\(unit=0\): so many neighbours, or \(rows, columns\), each from 1"),
        (lambda: TopK(0.5, unit=True), r"TopK\(unit=True\)"),
        (lambda: TopK(0.5, unit=(1, 2, 3)), r"TopK\(unit=\(1, 2, 3\)\)"),
        (lambda: TopK(0.5, "row", unit=(2, 2)), "a block spans rows; give its columns alone"),
        (lambda: TopK(0.5, unit=3).project(jnp.asarray(X), NO_CONTEXT), r"unit=3\) needs a shape that it divides"),
        (lambda: TopK(0.5, unit=(5, 1)).project(jnp.asarray(X), NO_CONTEXT), r"not \(32, 64\)"),
        (lambda: catalog.find("2:4+top50"), "A+B means a sparsity A, then a scalar format or a codebook B"),
        (lambda: catalog.find("top50-units0"), "each from 1"),
        (lambda: catalog.find("2:4-outliers1"), "beside a scalar format or a codebook"),
    ],
)
def test_what_does_not_compose_is_refused(make, message):
    with pytest.raises(UserError, match=message.replace("A+B", r"A\+B")):
        make()


@pytest.mark.ci
def test_the_error_of_a_grid_on_blocks_is_exact():
    exact = SparseQuantized(TopK(0.5, unit=4), Scalar(Int(4))).error(NORMAL, None)
    x = jnp.asarray(np.random.default_rng(7).standard_normal((64, 4096)).astype(np.float32))
    value = SparseQuantized(TopK(0.5, unit=4), Scalar(Int(4))).project(x, NO_CONTEXT).value
    assert exact.value == pytest.approx(float(jnp.mean((value - x) ** 2)), rel=0.01)
    assert SparseQuantized(TopK(0.5, unit=4), Scalar(Int(4), Absmax())).error(NORMAL, None) is None


@pytest.mark.ci
@pytest.mark.parametrize(
    "name", ["e8p-outliers1", "nvfp4-four-over-six-outliers2.5", "top50-units8+e8p", "top25-units2x8+higgs-d4-n16"]
)
def test_every_codebook_composes(name):
    """E8P too: runs of eight on survivors, and beside outliers; packed, named both ways, of the kind of codebooks."""
    format = catalog.find(name)
    x = jnp.asarray(np.random.default_rng(6).standard_normal((32, 256)), jnp.float32)
    value = jax.jit(lambda x: format.project(x, NO_CONTEXT).value)(x)
    np.testing.assert_array_equal(unpack(pack(format, x)), value)
    assert catalog.label(format) == name
    assert facts("e8p").kind == facts("higgs-d2-n16").kind == "vector"
    if "+" in name:
        assert facts(name).kind == "sparse+vector"
        keep = format.sparse.project(x, NO_CONTEXT).keep
        np.testing.assert_array_equal(np.asarray(value)[~np.asarray(keep)], 0)
        parts = format.rounding.measure(jnp.where(keep, x, 0), NO_CONTEXT, keep)
        alone = format.rounding.project_by(parts, x)
        np.testing.assert_array_equal(np.asarray(value)[np.asarray(keep)], np.asarray(alone.value)[np.asarray(keep)])
