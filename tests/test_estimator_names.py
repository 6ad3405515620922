"""Estimators as text: in and out, of now and of earlier versions."""

import pytest

from capscale.errors import UserError
from capscale.estimator_names import NAMES, estimator_name, find_estimator, split_name
from capscale.estimators import (
    ABRms,
    Both,
    BRms,
    Clip,
    ForwardMask,
    Hypersphere,
    Lsq,
    RmsThreshold,
    StraightThrough,
    ThroughScale,
    Trust,
    TrustRadius,
)
from capscale.estimators_rotated import BothRotated

TEXTS = [
    (StraightThrough(), "straight-through"),
    (Clip(1.3), "clip 1.3"),
    (Clip(), "clip"),
    (Trust(), "trust"),
    (Trust(2.0), "trust 2.0"),
    (TrustRadius(0.3186), "trust-radius 0.3186"),
    (Hypersphere(), "hypersphere"),
    (Hypersphere(1.2), "hypersphere 1.2"),
    (Lsq(), "lsq"),
    (ForwardMask(), "fw"),
    (RmsThreshold(0.1), "rms 0.1"),
    (BRms(0.1), "b-rms 0.1"),
    (ABRms(0.5), "a-b-rms 0.5"),
    (ThroughScale(), "through-scale"),
    (ThroughScale("matrix"), "through-scale matrix"),
    (Both(ForwardMask(), Trust()), "fw+trust"),
    (BothRotated(BRms(0.1), Clip(1.3)), "b-rms 0.1+rotated clip 1.3"),
]


@pytest.mark.parametrize(("estimator", "text"), TEXTS)
def test_in_and_out(estimator, text):
    assert estimator_name(estimator) == text
    assert find_estimator(text) == estimator


def test_every_estimator_of_the_package_has_a_name():
    assert {type(e) for e, _ in TEXTS} == {*NAMES.values(), Both, BothRotated}


@pytest.mark.parametrize(
    ("text", "estimator"),
    [
        ("straight_through", StraightThrough()),
        ("forward_mask", ForwardMask()),
        ("both", Both(StraightThrough(), Trust())),
        ("brms(p=0.1)", BRms(0.1)),
        ("rms(p=0.1)", RmsThreshold(0.1)),
        ("abrms(a=0.2)", ABRms(0.8)),  # `a` was the share that passed
        ("trust(threshold=2)", Trust(2.0)),
        ("hypersphere(radius=1.2)", Hypersphere(1.2)),
    ],
)
def test_what_earlier_versions_wrote(text, estimator):
    assert find_estimator(text) == estimator


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ste", "unknown estimator 'ste'; there are straight-through, clip"),
        ("b-rms", "needs a number: p"),
        ("clip big", "'big' is no number"),
        ("fw 0.1", "has no number"),
        ("b-rms 0.7", r"\[0, 1/2\)"),
        ("trust(threshhold=2)", "unknown estimator"),
        ("clip nan", "must be finite"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        find_estimator(text)


def test_names_with_an_estimator_in_brackets():
    assert split_name("top50 [fw]") == ("top50", "fw")
    assert split_name("top50") == ("top50", "")
    for bad in ("top50 [fw", "top50 []", "[fw]"):
        with pytest.raises(UserError, match="such as 'top50"):
            split_name(bad)
