"""Packed bytes: exact round trips of fields, files that come back, and files that must not."""

import json
from math import log2

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from capscale.errors import UserError
from capscale.formats import catalog
from capscale.formats.base import Context, Projection
from capscale.formats.capabilities import initial_context
from capscale.formats.grids import Int
from capscale.formats.packing import KEY, from_bytes, load, pack, save, to_bytes, unpack
from capscale.formats.scalar import Scalar
from capscale.formats.serialize import from_json, to_json
from capscale.formats.storage import Field, storage_bits
from capscale.testing import gaussian, same_bits

RADICES = (2, 3, 4, 6, 8, 16, 28, 70, 243, 256, 2**16, 2**32)


@pytest.mark.parametrize("radix", RADICES)
@pytest.mark.parametrize("size", [0, 1, 7, 1024, 5000])
def test_codes_take_their_bits_and_come_back(radix, size):
    codes = np.random.default_rng(radix + size).integers(0, radix, size, dtype=np.uint64).astype(np.uint32)
    codes[:3] = radix - 1
    field = Field("codes", size, radix)
    data = to_bytes(codes, field)
    assert size * log2(radix) / 8 <= len(data) <= size * log2(radix) / 8 * (1 + 1e-4) + 1.2
    np.testing.assert_array_equal(from_bytes(data, field), codes)


def test_ternary_takes_its_entropy():
    bits = storage_bits(catalog.find("ternary"), (4096, 4096))
    assert abs(bits - log2(3)) < 0.01
    packed = pack(catalog.find("ternary"), gaussian((64, 640)))
    scales = 64 * 4
    assert packed.nbytes <= np.ceil(64 * 640 * log2(3) / 8 * (1 + 1e-6)) + 1 + scales


def test_a_flipped_bit_changes_the_tensor():
    packed = pack(catalog.find("int4"), gaussian())
    data = bytearray(packed.fields["codes"])
    data[10] ^= 1
    packed.fields["codes"] = bytes(data)
    with pytest.raises(AssertionError):
        same_bits(unpack(packed), pack_free("int4", gaussian()))


def pack_free(name, x):
    format = catalog.find(name)
    return jax.jit(lambda x, ctx: format.project(x, ctx).value)(x, initial_context(format, x))


NAMES = ("dense", "ternary", "mxfp4", "nvfp4", "2:4+int4", "higgs-d2-n16")


def test_files_come_back(tmp_path):
    x = gaussian(dtype=jnp.bfloat16)
    save(tmp_path / "w.safetensors", {name: pack(catalog.find(name), x) for name in NAMES})
    found = load(tmp_path / "w.safetensors")
    assert set(found) == set(NAMES)
    for name, packed in found.items():
        assert packed.format == catalog.find(name)
        same_bits(unpack(packed), pack_free(name, x))


@pytest.mark.parametrize("name", catalog.FORMATS)
def test_every_format_is_json(name):
    format = catalog.find(name)
    assert from_json(json.loads(json.dumps(to_json(format)))) == format


def test_ragged_groups_come_back():
    format = Scalar(Int(4), group=96, ragged=True)
    x = gaussian((8, 256))
    same_bits(unpack(pack(format, x)), format.project(x, Context()).value)
    assert storage_bits(format, (8, 256)) == 4 + 3 * 32 / 256


@pytest.mark.ci
def test_other_shapes_come_back():
    for shape in ((64,), (2, 3, 64)):
        x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
        for name in ("nvfp4", "2:4+int4"):
            same_bits(unpack(pack(catalog.find(name), x)), pack_free(name, x))


class Foreign(Scalar):
    """A subclass that the loader does not know by name."""


def test_bad_files(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, {"w": pack(catalog.find("int4"), gaussian())})
    whole = path.read_bytes()

    def refused(message):
        with pytest.raises(UserError, match=message):
            load(path)

    path.write_bytes(whole[: len(whole) // 2])
    refused("not a whole safetensors file")
    path.write_bytes(b"hello, this is text")
    refused("not a whole safetensors file")
    path.write_bytes(b"")
    refused("not a whole safetensors file")
    save_file({"w": np.zeros(3, np.uint8)}, path)
    refused("not of capscale")
    save_file({"w": np.zeros(3, np.uint8)}, path, metadata={KEY: "{"})
    refused("header is corrupted")
    save_file({"w": np.zeros(3, np.uint8)}, path, metadata={KEY: json.dumps({"version": 99, "tensors": {}})})
    refused("version 99")
    save_file({"w": np.zeros(3, np.uint8)}, path, metadata={KEY: json.dumps({"version": 1, "tensors": ["w"]})})
    refused("header is corrupted")
    described = {"format": to_json(catalog.find("int4")), "shape": [8, 256], "dtype": "float32"}

    def with_fields(fields, entry):
        header = json.dumps({"version": 1, "tensors": {"w": entry}})
        save_file(
            {f"w/{name}": np.zeros(size, np.uint8) for name, size in fields.items()}, path, metadata={KEY: header}
        )

    with_fields({"codes": 1024}, described)
    refused("incompletely")
    with_fields({"codes": 1023, "scales0": 32}, described)
    refused("1023 bytes")
    with_fields({"codes": 1024, "scales0": 32}, {**described, "format": {"type": "System", "command": "rm"}})
    refused("unknown format class 'System'")
    with_fields({"codes": 1024, "scales0": 32}, {**described, "format": {"type": "Int", "bits": 4}})
    refused("described with the fields")
    path.unlink()
    refused("no such file")


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, {"w": pack(catalog.find("int4"), gaussian((4, 32)))})
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for position in range(start, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(UserError, match="tensor 'w' was altered after it was written"):
            load(path)
    path.write_bytes(whole.replace(b'\\"shape\\": [4, 32]', b'\\"shape\\": [2, 64]'))
    with pytest.raises(UserError, match=r"tensor 'w' (was altered|holds)"):
        load(path)


def test_files_of_earlier_versions_have_no_digest_and_are_read(tmp_path):
    path, packed = tmp_path / "w.safetensors", pack(catalog.find("int4"), gaussian())
    entry = {"format": to_json(packed.format), "shape": list(packed.shape), "dtype": packed.dtype}
    header = json.dumps({"version": 1, "tensors": {"w": entry}})
    fields = {f"w/{name}": np.frombuffer(data, np.uint8) for name, data in packed.fields.items()}
    save_file(fields, path, metadata={KEY: header})
    assert load(path) == {"w": packed}


def test_codes_beyond_the_radix_are_refused():
    field = Field("codes", 5, 3)
    with pytest.raises(UserError, match="code of 3 or more"):
        from_bytes(b"\xff", field)


def test_known_classes_from_outside(tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, {"w": pack(Foreign(Int(4)), gaussian())})
    with pytest.raises(UserError, match="unknown format class 'Foreign'"):
        load(path)
    same_bits(unpack(load(path, known=(Foreign,))["w"]), pack_free("int4", gaussian()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (gaussian().at[2, 3].set(jnp.nan), "NaN or infinity"),
        (gaussian().at[2, 3].set(jnp.inf), "NaN or infinity"),
        (jnp.zeros((0, 4)), "empty tensor"),
    ],
)
def test_bad_tensors_are_refused(x, message):
    for name in ("int4", "top50", "2:4", "higgs-d2-n16"):
        with pytest.raises(UserError, match=message):
            pack(catalog.find(name), x)


def test_formats_without_storage_say_so():
    with pytest.raises(UserError, match="stores nothing"):
        pack(catalog.find("noise2"), gaussian())

    class Bare:
        bits, granularity = 8.0, "row"

        def project(self, x, ctx):
            return Projection(x)

    with pytest.raises(UserError, match="stores nothing"):
        pack(Bare(), gaussian())
