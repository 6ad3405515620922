"""Which parameters are compressed: all of them are accounted for, or the leftovers are named."""

import pytest
from support import tiny

from capscale.errors import UserError
from capscale.models import coverage
from capscale.models.coverage import parameters
from capscale.models.ladder import find_size
from capscale.representation import DENSE, Representation, operand

DENSE_LEAVES = {
    "embedding",
    "final_norm/gain",
    "head",
    "layers/attention_norm/gain",
    "layers/mlp_norm/gain",
}
KERNELS = {
    *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "out")),
    *(f"layers/mlp/{name}/kernel" for name in ("gate", "up", "down")),
}


@pytest.mark.parametrize("name", ["int4", "2:4", "top50+int4", "mxfp4"])
def test_kernels_and_nothing_else_are_compressed(name):
    model, representation = find_size("30M"), Representation(weights=operand(name))
    leaves = {leaf.path: leaf for leaf in parameters(model, representation)}
    assert leaves.keys() == DENSE_LEAVES | KERNELS
    for path, leaf in leaves.items():
        compressed = path in KERNELS
        assert leaf.format == (name if compressed else "dense")
        # Scales of columns this short are not free, as they are in the format's own number.
        assert leaf.bits == (pytest.approx(representation.weights.format.bits, rel=0.05) if compressed else 16)
        assert leaf.in_n == (path not in {"embedding", "head"})


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("int4", 1792),
        ("mxfp4", 32),
        ("nvfp4", 16),
        ("2:4", 4),
        ("2:4+int4", 1792),
        ("top50", 1792 * 640),
        ("top50+int4", 1792),
    ],
)
def test_axis_and_group(name, group):
    """Of the down projection, (layers, 1792, 640)."""
    leaves = {leaf.path: leaf for leaf in parameters(find_size("30M"), Representation(weights=operand(name)))}
    down = leaves["layers/mlp/down/kernel"]
    assert (down.axis, down.group) == (1, group)
    assert (leaves["head"].axis, leaves["head"].group) == (None, None)


def test_sizes_and_bytes_add_up():
    """30M in int4: attention and feed-forward matrices at 4 bits, the rest at 16."""
    model = find_size("30M")
    leaves = parameters(model, Representation(weights=operand("int4")))
    matrices = 6 * (4 * 640 * 640 + 3 * 640 * 1792)
    scales = 6 * (5 * 640 + 2 * 1792)  # float32, one an output channel
    dense = 2 * 32_000 * 640 + (2 * 6 + 1) * 640
    assert sum(leaf.size for leaf in leaves) == matrices + dense
    assert sum(leaf.bytes for leaf in leaves) == matrices / 2 + 2 * dense + 4 * scales
    by_path = {leaf.path: leaf for leaf in leaves}
    assert by_path["layers/mlp/down/kernel"].shape == (6, 1792, 640)


def test_olmo2_is_covered():
    model, representation = find_size("olmo2-30M"), Representation(weights=operand("int4"), hadamard=128)
    formats = {leaf.path: leaf.format for leaf in parameters(model, representation)}
    gains = {f"layers/attention/{name}_norm/gain" for name in ("query", "key")}
    kernels = KERNELS - {"layers/mlp/gate/kernel"}
    assert formats == dict.fromkeys(DENSE_LEAVES | gains, "dense") | dict.fromkeys(kernels, "int4")


def test_tied_embeddings_are_one_leaf():
    assert {leaf.path for leaf in parameters(tiny.MODEL, DENSE)} == (DENSE_LEAVES - {"head"}) | KERNELS


def test_undeclared_leaves_are_named(monkeypatch):
    monkeypatch.setattr(coverage, "_DENSE", frozenset({"embedding", "head"}))
    with pytest.raises(UserError, match="neither compressed nor dense: final_norm/gain, layers/attention_norm/gain, "):
        parameters(tiny.MODEL, DENSE)
