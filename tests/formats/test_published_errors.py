"""Errors that authors, or measurements on 10^7 normal values, give of deployed formats: met to every digit given.

The shipped numbers are held to what is computed by `test_known_errors`.
"""

import pytest

from capscale.formats import catalog
from capscale.gaussian_mse import gmse

PUBLISHED = {
    "nvfp4": ".00904",
    "nvfp4-four-over-six": ".00756",  # arXiv 2512.02010
    "nvfp4-g16x16": ".0124",
    "hif4": ".00688",  # arXiv 2602.11287
    "mxfp4": ".01322",
    "mxfp4-even": ".01251",
    "mxint8": ".0000681",
    "absmax-e4m3-g128": ".000661",
    "absmax-e4m3-g128x128": ".000700",
    "nf4": ".00846",
    "q4_1": ".0061",  # INT4 with an offset in groups of 32
    "q4_0": ".00738",
    "absmax-twos-int4-g32": ".00941",
    "absmax-int4-g4": ".002746",
    "absmax-int4-g16": ".006321",
    "absmax-int4-g32": ".008197",
    "absmax-int4-g128": ".011979",
    "mxfp4-ceil-stochastic": ".0271",
    "ternary": ".1902",
    "ternary-mean": ".2634",  # BitNet b1.58, arXiv 2402.17764
    "ternary-median": ".3180",
    "lloyd1": ".363",  # Max 1960, as arXiv 2504.19874 prints them
    "lloyd2": ".117",
    "lloyd3": ".035",
    "lloyd4": ".0095",
    "lloyd1-unbiased": ".5708",  # pi / 2 - 1, arXiv 2105.08339
}


@pytest.mark.parametrize(("name", "printed"), PUBLISHED.items(), ids=PUBLISHED)
def test_every_digit_is_met(name, printed):
    found = gmse(catalog.find(name))
    unit = 10.0 ** -(len(printed) - 1)
    assert abs(found.value - float(printed)) <= unit / 2 + 3 * found.standard_error


@pytest.mark.parametrize("size", [4, 16, 32, 128])
def test_scales_of_16_bits_lose_next_to_nothing(size):
    whole, short = (gmse(catalog.find(f"absmax-int4-g{size}{suffix}")).value for suffix in ("", "-bf16"))
    assert abs(short / whole - 1) < 7e-4
