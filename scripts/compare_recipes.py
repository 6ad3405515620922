"""Values that recipes round operands to, beside those of authors' code, torchao, Transformer Engine and qwix.

    pip install torch torchao triton qwix && pip download --no-deps transformer_engine
    TRITON_INTERPRET=1 python scripts/compare_recipes.py --wheel transformer_engine-*.whl --quartet Quartet \
        --quartet2 Quartet-II --microxcaling microxcaling [--golden tests/formats]

The last three are checkouts of IST-DASLab/Quartet (files of 3910a1f and 2dd9368 were run), IST-DASLab/Quartet-II
(0ca64a2, the last whose quantizers are PyTorch alone) and microsoft/microxcaling (3b429a8) with the patch of
amazon-science/mxfp4-llm (0cc57fe); `authors_code.py` runs them. Nothing of their arithmetic is written here: torchao's
functions run as they are, and so do the reference quantizers of Transformer Engine's wheel, which need no GPU; the base
classes that do are left empty.

Every pair is compared on the tensors of `tests/support/outside.py`: normal, with outliers, with zeros, all zeros, tiny,
subnormal, up to the largest float32, and on ties. Compared are levels, of the grid times those of its scales: float32
scales may be a rounding apart. Draws are compared number by number, by their two values and how often it was which.

With `--golden` it keeps a digest of their levels and, where ours differ in few places, those with their levels, and the
counts of their draws, so that tests hold ours to theirs without any of the libraries. One step of torchao's INT8 linear
layer is compared as well.
"""

import argparse
import importlib.util
import json
import random
import sys
import types
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
from authors_code import Draws, Theirs, microxcaling, quartet, quartet2
from qwix._src.core import numerics, stochastic_rounding  # pyright: ignore[reportMissingImports]
from torchao.prototype.blockwise_fp8_training import kernels as blocks  # pyright: ignore[reportMissingImports]
from torchao.prototype.mx_formats.config import ScaleCalculationMode  # pyright: ignore[reportMissingImports]
from torchao.prototype.mx_formats.kernels import (  # pyright: ignore[reportMissingImports]
    f4_unpacked_to_f32,
    unpack_uint4,
)
from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx  # pyright: ignore[reportMissingImports]
from torchao.prototype.mx_formats.nvfp4_tensor import (  # pyright: ignore[reportMissingImports]
    nvfp4_quantize,
    per_tensor_amax_to_scale,
)
from torchao.prototype.quantized_training import int8_mixed_precision as int8_training  # pyright: ignore[reportMissingImports]
from torchao.prototype.quantized_training.int8 import quantize_int8_rowwise  # pyright: ignore[reportMissingImports]

from capscale.recipes import find_recipe
from capscale.representation import linear

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support import outside, outside_draws  # noqa: E402  # pyright: ignore[reportMissingImports]

Tensor = Any
MOST_LISTED = 24
"""Places with other values that a golden file lists; of more it holds the share alone."""


def transformer_engine(wheel: Path) -> Theirs:
    """The reference quantizers of a wheel, by pair."""
    package = "transformer_engine.pytorch"
    recipes = f"{package}.custom_recipes"
    for name in ("transformer_engine", package, recipes, f"{package}.tensor"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []  # a package

    class Quantizer:
        """Base class as far as the references need it: which directions they quantize."""

        def __init__(self, *, rowwise: bool, columnwise: bool):
            self.rowwise_usage, self.columnwise_usage = rowwise, columnwise

    base = types.ModuleType(f"{package}.quantized_tensor")
    vars(base).update(Quantizer=Quantizer, QuantizedTensorStorage=type("QuantizedTensorStorage", (), {}))
    utils = types.ModuleType(f"{package}.tensor.utils")
    vars(utils).update(is_custom=lambda *_: True)
    sys.modules |= {base.__name__: base, utils.__name__: utils}
    loaded = {}
    with TemporaryDirectory() as place, zipfile.ZipFile(wheel) as archive:
        for name in ("gemm", "reference_utils", "reference_nvfp4", "reference_current_scaling"):
            path = archive.extract(f"transformer_engine/pytorch/custom_recipes/{name}.py", place)
            spec = importlib.util.spec_from_file_location(f"{recipes}.{name}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = loaded[name] = module
            setattr(sys.modules[recipes], name, module)
            spec.loader.exec_module(module)
    nvfp4, current = loaded["reference_nvfp4"], loaded["reference_current_scaling"]

    def fp4(tile: tuple[int, int] = (1, 16), *, turned: bool = False, **options: Any) -> Callable[[Tensor], Tensor]:
        """Codes times both scales, the outer one as their matrix product applies it."""

        def values(x: Tensor) -> Tensor:
            quantizer = nvfp4.NVFP4QuantizerRef(
                loaded["reference_utils"].Fp4Formats.E2M1, quant_tile_shape=tile, with_rht=turned, **options
            )
            found = quantizer.quantize(x)
            data, scale, amax = (
                (found.data_t, found.scale_t, found.global_amax_col)
                if turned
                else (found.data, found.scale, found.global_amax_row)
            )
            levels = nvfp4.cast_from_fp4x2(data, torch.float32)
            top = options.get("nvfp4_e4m3_max", 448)
            outer = amax.view(-1, 1) / (6.0 * top)
            return levels * (scale.to(torch.float32) * outer).repeat_interleave(16, dim=1)

        return values

    def fp8(dtype: Any) -> Callable[[Tensor], Tensor]:
        def values(x: Tensor) -> Tensor:
            found = current.CurrentScalingQuantizerRef(dtype=dtype, rowwise=True, columnwise=False).quantize(x)
            return found.data.to(torch.float32) * found.scale

        return values

    return {
        "te nvfp4 1x16": fp4(),
        "te nvfp4 1x16, a scale a row": fp4(row_scaled_nvfp4=True),
        "te nvfp4 16x16": fp4((16, 16)),
        "te nvfp4 1x16 rotated": fp4(turned=True),
        "te nvfp4 1x16 four over six": fp4(nvfp4_use_4over6=True, nvfp4_e4m3_max=256, nvfp4_4over6_err_mode="MSE"),
        "te e4m3 current": fp8(torch.float8_e4m3fn),
        "te e5m2 current": fp8(torch.float8_e5m2),
    }


def torchao() -> Theirs:
    """Functions of torchao's NVFP4, MX, INT8 and blockwise FP8 training, by pair."""

    def nvfp4(x: Tensor) -> Tensor:
        outer = per_tensor_amax_to_scale(x.abs().max())
        scales, data = nvfp4_quantize(x, per_tensor_scale=outer)
        levels = f4_unpacked_to_f32(unpack_uint4(data)).view(x.shape)
        return levels * (scales.to(torch.float32) * outer).repeat_interleave(16, dim=1)

    def mx(dtype: Any, mode: str) -> Callable[[Tensor], Tensor]:
        def values(x: Tensor) -> Tensor:
            scale, data = to_mx(x, dtype, 32, ScaleCalculationMode[mode])
            return to_dtype(data, scale, dtype, 32, torch.float32)

        return values

    def int8(x: Tensor) -> Tensor:
        data, scale = quantize_int8_rowwise(x)
        return data.to(torch.float32) * scale.view(-1, 1)

    def grouped(x: Tensor) -> Tensor:
        data, scale = blocks.torch_blockwise_scale_act_quant_lhs(x)
        return data.to(torch.float32) * scale.repeat_interleave(128, dim=1)

    def tiled(x: Tensor) -> Tensor:
        data, scale = blocks.torch_blockwise_scale_weight_quant(x)
        return data.to(torch.float32) * scale.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)

    return {
        "torchao nvfp4": nvfp4,
        "torchao mxfp4 floor": mx(torch.float4_e2m1fn_x2, "FLOOR"),
        "torchao mxfp4 ceil": mx(torch.float4_e2m1fn_x2, "RCEIL"),
        "torchao mxfp4 even": mx(torch.float4_e2m1fn_x2, "EVEN"),
        "torchao mxfp8-e4m3 floor": mx(torch.float8_e4m3fn, "FLOOR"),
        "torchao mxfp8-e5m2 floor": mx(torch.float8_e5m2, "FLOOR"),
        "torchao int8 row": int8,
        "torchao e4m3 1x128": grouped,
        "torchao e4m3 128x128": tiled,
    }


def of_qwix() -> Theirs:
    """qwix's MXFP4, which rounds its scale up; its other formats stand in `compare_fake_quant.py`."""

    def values(x: Tensor) -> Tensor:
        held = qwix.quantize(jnp.asarray(x.numpy()), "mxfp4", channelwise_axes=(0,), tiled_axes={1: 32})
        return torch.from_numpy(np.array(qwix.dequantize(held)))

    return {"qwix mxfp4 ceil": values}


def library_draws() -> Draws:
    """INT8 by chance: torchao's rows, and qwix's numbers in units of their scale."""

    def rows(x: Tensor, count: int) -> Tensor:
        data, scale = quantize_int8_rowwise(x.repeat(count, 1), stochastic_rounding=True)
        return (data.to(torch.float32) * scale.view(-1, 1)).view(count, *x.shape)

    def numbers(x: Tensor, count: int) -> Tensor:
        noise = stochastic_rounding.get_noise_fn("uniform", jax.random.key(0), (0, 1, 2))
        held = numerics.convert_to(jnp.asarray(x.repeat(count, 1, 1).numpy()), jnp.int8, noise)
        return torch.from_numpy(np.array(held, np.float32))

    return {"torchao int8 row": rows, "qwix int8": numbers}


def int8_step() -> dict[str, float]:
    """One INT8 linear layer forward and backward by torchao and by the recipe: largest difference over the largest."""
    x, w, g = (np.asarray(outside.tensors()[kind])[:, :128] for kind in ("normal", "outliers", "ties"))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, w.T.copy())]
    apply = int8_training._Int8MixedPrecisionTrainingLinearFunction.apply
    y = apply(*leaves, None, int8_training.Int8MixedPrecisionTrainingConfig())
    y.backward(torch.tensor(g))
    theirs = (y.detach(), leaves[0].grad, leaves[1].grad.T)
    ours, pull = jax.vjp(lambda x, w: linear(x, w, find_recipe("int8-training")), jnp.asarray(x)[None], jnp.asarray(w))
    dx, dw = pull(jnp.asarray(g)[None])
    pairs = zip(("y", "dx", "dw"), (ours[0], dx[0], dw), theirs, strict=True)
    return {name: float(np.abs(a - b.numpy()).max() / np.abs(b.numpy()).max()) for name, a, b in pairs}


def compared(theirs: Theirs) -> dict[str, dict[str, Any]]:
    """Of every pair and tensor: digest of their levels, where ours differ, and how many differ in float32 at all."""
    found: dict[str, dict[str, Any]] = {}
    for name, function in theirs.items():
        print(f"\n{name}")
        found[name], pair = {}, outside.ours()[name]
        for kind, x in outside.tensors().items():
            values = outside.computed(pair, x), function(torch.tensor(pair.prepare(x))).detach().numpy()
            mine, other = (outside.levels(pair, x, each).ravel() for each in values)
            places = np.flatnonzero(~((mine == other) | (np.isnan(mine) & np.isnan(other))))
            entry: dict[str, Any] = {"theirs": outside.digest(other)}
            if len(places):
                entry["differ"] = len(places)
                if len(places) <= MOST_LISTED:
                    entry["at"] = {str(i): other[i] for i in places}
                first = places[:3]
                print(
                    f"  {kind:10s} {len(places)} of {x.size} levels differ: ours {mine[first]}, theirs {other[first]}"
                )
            else:
                rounded = int(np.sum(values[0] != values[1]) - np.sum(np.isnan(values[0]) & np.isnan(values[1])))
                print(f"  {kind:10s} equal{f', {rounded} values by a rounding apart' * bool(rounded)}")
            found[name][kind] = entry
    return found


def drawn(theirs: Draws) -> dict[str, dict[str, Any]]:
    """Draws of theirs by pair, and how far ours are from them."""
    found = {}
    for name, function in theirs.items():
        torch.manual_seed(23)
        random.seed(23)
        draw = outside_draws.draws()[name]
        mine, other = (
            outside_draws.counted(values)
            for values in (outside_draws.ours(draw), function(torch.tensor(draw.x), outside_draws.DRAWS).numpy())
        )
        same = outside_draws.same_values(mine, other)
        far = outside_draws.standard_errors(mine, other)
        spread = np.sqrt(np.mean(far[~np.isnan(mine.other)] ** 2))
        print(f"\n{name}, draws: {same.sum()} of {same.size} numbers have the same values")
        print(f"  their shares are {spread:.2f} standard errors apart in the RMS, {far.max():.2f} at most")
        found[name] = outside_draws.as_json(other)
    return found


def main() -> None:
    """Prints what differs, pair by pair, and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("wheel", "quartet", "quartet2", "microxcaling"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--golden", type=Path, help="folder to write outside_recipes.json and outside_draws.json to")
    arguments = parser.parse_args()
    of_quartet, quartet_draws = quartet(arguments.quartet)
    of_mx, mx_draws = microxcaling(arguments.microxcaling)
    pairs = {**transformer_engine(arguments.wheel), **torchao(), **of_qwix(), **of_quartet, **of_mx}
    by_chance = {**quartet_draws, **mx_draws, **quartet2(arguments.quartet2), **library_draws()}
    assert set(pairs) == set(outside.ours())
    assert set(by_chance) == set(outside_draws.draws())
    found, draws = compared(pairs), drawn(by_chance)
    step = int8_step()
    print(f"\nINT8 linear layer, largest difference over the largest value: {step}")
    versions = {name: version(name) for name in ("torch", "torchao", "qwix", "triton", "jax", "numpy")}
    versions["transformer_engine"] = arguments.wheel.name.split("-")[1]
    if arguments.golden:
        content = {"versions": versions, "int8_step": step, "pairs": found}
        (arguments.golden / "outside_recipes.json").write_text(json.dumps(content, indent=1) + "\n")
        lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in draws.items())
        (arguments.golden / "outside_draws.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
