"""Nested integers against slicing by the book, their packed container, and their error against Monte Carlo."""

import jax.numpy as jnp
import numpy as np
import pytest

from capscale.errors import UserError
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find, label
from capscale.formats.distributions import NORMAL
from capscale.formats.nested import Nested
from capscale.formats.packing import expected_bytes, pack, sliced, unpack
from capscale.formats.serialize import from_json, to_json
from capscale.gaussian_mse import gmse
from capscale.testing import check_format

NAMES = ("nested-8-4-2", "absmax-nested-8-4-2-g32")
X = jnp.asarray(
    np.random.default_rng(0).standard_normal((16, 256)) * np.exp(np.linspace(-3, 3, 16))[:, None], jnp.float32
)


def by_the_book(name, bits):
    """Codes of 8 bits sliced by equation 6 in exact integers, and what they stand for, group by group in float64."""
    nested = find(name)
    parts = nested.parent.measure(X, NO_CONTEXT)
    codes = np.asarray(nested.parent.codes_of(X, parts), np.int64)
    shift = 8 - bits
    kept = np.minimum((codes + (1 << shift >> 1)) // (1 << shift), (1 << bits) - 1) * (1 << shift)
    groups = kept.reshape(16, -1, 32 if "g32" in name else 256)
    scale = np.asarray(parts[0], np.float64).reshape(16, -1, 1)
    zero = 128 if "absmax" in name else np.asarray(parts[1], np.float64).reshape(16, -1, 1)
    return codes, (scale * (groups - zero)).reshape(X.shape)


@pytest.mark.parametrize("name", NAMES)
def test_slices_are_the_top_bits_rounded_and_clamped(name):
    nested, packed = find(name), pack(find(name), X)
    for bits in (8, 4, 2):
        codes, expected = by_the_book(name, bits)
        value = nested.sliced(bits).project(X, NO_CONTEXT).value
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max())
        # The container of 8 bits holds every slice, bit for bit, and in its own bytes.
        cut = sliced(packed, bits)
        assert cut.nbytes == expected_bytes(cut.format, X.shape, X.dtype)
        np.testing.assert_array_equal(np.asarray(unpack(cut)), np.asarray(value))
        np.testing.assert_array_equal(np.asarray(unpack(pack(nested.sliced(bits), X))), np.asarray(value))
    assert codes.max() == 255  # where rounding up would leave the narrower range


def oracle(nested, draws=2000, values=256):
    """Mean squared error by draws of rows, in float64 and without the package's rounding; and its standard error."""
    x, most = np.random.default_rng(1).standard_normal((draws, values)), 2 ** nested.widths[0]
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    if "absmax" in label(nested):
        scale, zero = np.abs(x).max(1, keepdims=True) / (most / 2 - 1), most / 2
    else:
        scale = (high - low) / (most - 1)
        zero = np.round(-low / scale)
    codes = np.clip(np.round(x / scale + zero), 0, most - 1)
    step = 2 ** (nested.widths[0] - nested.width)
    kept = np.minimum(np.floor((codes + step // 2) / step), 2**nested.width - 1) * step
    errors = np.square(x - scale * (kept - zero)).mean(1)
    return errors.mean(), errors.std() / np.sqrt(draws)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["nested-8-4-2-at4", "nested-8-4-2-at2", "absmax-nested-8-4-2-at2", "nested-6-3-at3"])
def test_errors_of_slices_are_exact(name):
    found, (mean, error) = gmse(find(name), NORMAL, 256), oracle(find(name))
    assert found.standard_error == 0
    assert abs(found.value - mean) < 4 * error < 0.03 * mean


@pytest.mark.ci
def test_a_slice_is_another_grid_than_the_one_of_its_bits():
    """At 2 bits the slice has less error than integers over the same range, whose outer levels lie at its ends."""
    slices = [gmse(find(f"nested-8-4-2-at{bits}"), NORMAL, 256).value for bits in (4, 2)]
    alone = [gmse(find(f"affine-int{bits}"), NORMAL, 256).value for bits in (4, 2)]
    assert slices[1] < 0.65 * alone[1]
    assert 0.9 < slices[0] / alone[0] < 1.0


def test_names_and_json_go_both_ways():
    for name in (
        *NAMES,
        "nested-8-4-2-at2",
        "absmax-nested-6-3-weighted-0-1",
        "nested-8-4-2-g64-weighted-0.1-0.1-1-at4",
    ):
        assert label(find(name)) == name
        assert from_json(to_json(find(name))) == find(name)
    assert find("nested-8-4-2-at8") == find("nested-8-4-2") == Nested((8, 4, 2))
    assert find("nested-8-4-2-at2").bits == 2
    assert Nested((8, 4, 2), weights=(0.1, 0.1, 1.0)).shares == pytest.approx((1 / 12, 1 / 12, 10 / 12))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nested-4-8", "descending"),
        ("nested-8-8", "descending"),
        ("nested-9-4", "bits must be 1 to 8"),
        ("nested-8-4-at3", "the widths are 8, 4"),
        ("nested-8-4-weighted-1", "one for each of the widths"),
        ("nested-8-4-weighted-0-0", "not all 0"),
    ],
)
def test_what_is_not_nested_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        find(name)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["nested-8-4-2", "nested-8-4-2-at2"])
def test_the_contracts_of_formats_hold(name):
    check_format(find(name), symmetric=False)
