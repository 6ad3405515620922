"""Packed weights decoded by the libraries that they are written for: compressed-tensors, torchao, gguf, transformers.

    pip install torch transformers compressed-tensors torchao gguf && python scripts/compare_packed.py

For every format that a container holds, one matrix is encoded by `capscale.checkpoints` and decoded by the library's
own code; values must be those of `project`, bit for bit but for the sign of zeros. Then a small Llama is exported
whole and loaded: by transformers with compressed-tensors, by torchao's reader of flattened tensors, and by transformers
from GGUF; weights must be those of `Source.held`, and logits those of the rounded model.

NVFP4 in compressed-tensors is the exception: it divides by a reciprocal of our outer scale, and multiplies in bfloat16.
Its values are held to the spacing of bfloat16, and those that differ are counted.

With `--golden FILE` the bytes are kept for the tests, with digests of what the libraries made of them.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import compressed_tensors as ct  # pyright: ignore[reportMissingImports]
import gguf  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchao  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from compressed_tensors.compressors import BaseCompressor  # pyright: ignore[reportMissingImports]
from compressed_tensors.quantization import QuantizationScheme  # pyright: ignore[reportMissingImports]
from safetensors import safe_open
from safetensors.numpy import save_file
from torchao.prototype.safetensors.safetensors_support import (  # pyright: ignore[reportMissingImports]
    unflatten_tensor_state_dict,
)

from capscale.checkpoints import compressed_tensors, gguf_blocks
from capscale.checkpoints import torchao as as_torchao
from capscale.checkpoints.export import CONTAINERS, export
from capscale.checkpoints.huggingface import places, rows_of
from capscale.checkpoints.source import Source
from capscale.formats.base import NO_CONTEXT
from capscale.formats.catalog import find
from capscale.models.config import ModelConfig
from capscale.models.decoder import Decoder
from capscale.models.initial import initial_params
from capscale.models.rope import Llama3Rope
from capscale.representation import DENSE, Operand, Representation

FORMATS: Mapping[str, Mapping[str, str]] = {
    "compressed-tensors": {
        **{f"absmax-twos-int{bits}-g32": "float32" for bits in (2, 3, 4, 5, 8)},
        "absmax-mid-tread-int4-g128-bf16": "bfloat16",
        "absmax-twos-int4-g32-fp16": "float16",
        "absmax-mid-tread-int8": "float32",
        "affine-int4-g32": "float32",
        "affine-int3-g128": "float16",
        "mxfp4": "bfloat16",
        "nvfp4": "bfloat16",
        "absmax-e4m3": "float32",
        "absmax-e4m3-matrix": "float32",
        "absmax-e4m3-g4x128": "float32",
    },
    "torchao": dict.fromkeys(("mxfp4", "mxfp4-even", "mxfp8-e4m3", "mxfp8-e5m2", "nvfp4"), "float32"),
    "gguf": dict.fromkeys(
        ("q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "mxfp4", "mxfp4-ceil", "absmax-mid-tread-int8-g32-fp16"), "float32"
    ),
}
"""Formats of each container, and the type of the model that they are written for."""
SHAPE = (12, 256)  # fewer rows than make two words of zero points are not read by compressed-tensors 0.20
INEXACT = ("compressed-tensors", "nvfp4")
MODEL = ModelConfig(
    layers=2,
    heads=4,
    width=64,
    vocabulary=96,
    context=64,
    feed_forward_width=128,
    kv_heads=2,
    dtype="float32",
    rope_theta=500.0,
    rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 32),
    init_std=0.3,
)
MODELS = {
    "llama": MODEL,
    "qwen2": replace(MODEL, biases=("query", "key", "value"), tied_embeddings=True, rope_scaling=None),
    "qwen3": replace(MODEL, qk_norm="per-head", head_width=128, rope_scaling=None),
}
"""Heads of 128 features: transformers 5.24 takes a Qwen3 of GGUF to have these, whatever `key_length` says."""
WHOLE = (
    ("llama", "compressed-tensors", "absmax-twos-int4-g32-bf16", "bfloat16"),
    ("qwen2", "compressed-tensors", "affine-int4-g32", "float32"),
    ("qwen3", "compressed-tensors", "mxfp4", "bfloat16"),
    ("llama", "compressed-tensors", "nvfp4", "bfloat16"),
    ("llama", "compressed-tensors", "absmax-e4m3", "float32"),
    ("llama", "torchao", "nvfp4", "float32"),
    ("llama", "gguf", "q4_0", "float32"),
    ("qwen2", "gguf", "q4_1", "float32"),
    ("qwen3", "gguf", "absmax-mid-tread-int8-g32-fp16", "float32"),
    ("llama", "hf", "int4", "float32"),
)


def matrix() -> np.ndarray:
    """Values of many magnitudes, with zeros of both signs, a group and a row of zeros, and ties."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(SHAPE) * 2.0 ** rng.integers(-8, 8, (SHAPE[0], SHAPE[1] // 32)).repeat(32, axis=1)
    x[0, 32:64] = 0.0
    x[1, 64:96] = np.arange(-16, 16) / 4
    x[2, 5:9] = (0.0, -0.0, 1e-30, -1e-30)
    x[3] = 0.0
    return x.astype(np.float32)


def encoded(container: str, name: str, dtype: str, x: np.ndarray) -> Mapping[str, np.ndarray]:
    """Parts of a matrix as a container has them."""
    if container == "compressed-tensors":
        return compressed_tensors.encode(find(name), x, np.dtype(jnp.dtype(dtype)))
    if container == "torchao":
        return as_torchao.encode(find(name), x)
    return {"blocks": gguf_blocks.encode(find(name), x)}


def tensor(value: np.ndarray) -> Any:
    """A torch tensor of the same bits."""
    types = {
        "bfloat16": torch.bfloat16,
        "float8_e4m3fn": torch.float8_e4m3fn,
        "float8_e5m2": torch.float8_e5m2,
        "float8_e8m0fnu": torch.float8_e8m0fnu,
    }
    if value.dtype.name not in types:
        return torch.from_numpy(np.array(value))
    same_width = value.view(np.int16 if value.dtype == ml_dtypes.bfloat16 else np.uint8)
    return torch.from_numpy(np.array(same_width)).view(types[value.dtype.name])


def decoded(container: str, name: str, dtype: str, parts: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Values that the library makes of the parts, float32."""
    if container == "gguf":
        kind = gguf.GGMLQuantizationType[gguf_blocks.type_of(find(name)).name]
        return gguf.quants.dequantize(parts["blocks"], kind).reshape(x.shape)
    tensors = {part: tensor(value) for part, value in parts.items()}
    if container == "torchao":
        metadata = as_torchao.header({"m.weight": find(name)}, dtype)
        found, left = unflatten_tensor_state_dict({f"m.{part}": value for part, value in tensors.items()}, metadata)
        assert not left
        return found["m.weight"].dequantize().float().numpy()
    config = compressed_tensors.config({"m.weight": find(name)})
    scheme = QuantizationScheme.model_validate(config["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(config["format"])
    return compressor.decompress(tensors, scheme)["weight"].float().numpy()


def digest(values: np.ndarray) -> str:
    """SHA-256 of float32 values, zeros without a sign."""
    return hashlib.sha256((values.astype(np.float32) + 0.0).tobytes()).hexdigest()


def compare_matrices(keep: dict[str, np.ndarray], digests: dict[str, str]) -> list[str]:
    """A line for every format of every container; names of those that are not as they should be."""
    x, failed = matrix(), []
    keep["x"] = x
    print(f"{'container':20}{'format':34}{'type':10}{'differ':>7}{'sign of 0':>11}")
    for container, formats in FORMATS.items():
        for name, dtype in formats.items():
            parts = encoded(container, name, dtype, x)
            theirs = decoded(container, name, dtype, parts, x)
            ours = np.asarray(find(name).project(jnp.asarray(x), NO_CONTEXT).value.astype(dtype), np.float32)
            differ, signs = ours != theirs, (ours == theirs) & (np.signbit(ours) != np.signbit(theirs))
            print(f"{container:20}{name:34}{dtype:10}{differ.sum():>7}{signs.sum():>11}")
            near = np.all(np.abs(ours - theirs)[differ] <= 2.0**-7 * np.abs(ours[differ]))
            failed += [f"{container} {name}"] if differ.any() and ((container, name) != INEXACT or not near) else []
            keep |= {f"{container}/{name}/{part}": value for part, value in parts.items()}
            digests[f"{container}/{name}/{dtype}"] = digest(theirs)
    return failed


def weights_of(container: str, out: Path) -> tuple[Any, Mapping[str, Any]]:
    """The model that transformers makes of a directory, where it does, and weights by name."""
    if container == "torchao":
        with safe_open(out / "model.safetensors", framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found, left = unflatten_tensor_state_dict(found, file.metadata())
        assert not left
        return None, {n: v.dequantize() if hasattr(v, "dequantize") else v for n, v in found.items()}
    load = transformers.AutoModelForCausalLM.from_pretrained
    options: dict[str, Any] = {"gguf_file": "model.gguf"} if container == "gguf" else {}
    if container == "compressed-tensors":
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    model = load(
        out, attn_implementation="eager", **({"dtype": torch.float32} if container == "gguf" else {}), **options
    )
    return model.eval(), model.state_dict()


def compare_models() -> list[str]:
    """A line for every export; names of those that do not read back."""
    tokens = np.random.default_rng(0).integers(0, MODEL.vocabulary, (2, 16))
    failed = []
    for kind, container, name, dtype in WHOLE:
        # transformers does not read the tensor `rope_freqs` of GGUF, which llama.cpp does
        shape = replace(MODELS[kind], rope_scaling=None) if container == "gguf" else MODELS[kind]
        drawn = initial_params(shape, DENSE, jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), drawn)
        source = Source(Path("memory"), shape, params, Representation(Operand(find(name))))
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "out"
            assert container in CONTAINERS
            written = export(source, container, out, dtype)  # pyright: ignore[reportArgumentType]
            model, weights = weights_of(container, out)
        held, differ = source.held(), 0
        for key, place in places(shape).items():
            ours = rows_of(held, place).astype(jnp.dtype(dtype)).astype(np.float32)
            differ += int(np.sum(ours != weights[key].float().numpy()))
        error = float("nan")
        if model is not None:
            rounded = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype).astype(jnp.float32), held)
            ours = np.asarray(Decoder(shape).apply({"params": rounded}, jnp.asarray(tokens), NO_CONTEXT))
            with torch.no_grad():
                model = model if container == "gguf" else model.float()
                theirs = model(torch.asarray(tokens)).logits.numpy()
            error = float(np.abs(ours - theirs).max() / np.abs(ours).max())
        bits = "" if written.bits is None else f"{written.bits:.3f} bits"
        print(f"{kind:8}{container:20}{name:34}{dtype:10}{differ:>7} weights differ, logits {error:.1e} {bits}")
        failed += [f"{kind} {container} {name} whole"] if differ or error > 1e-5 else []
    return failed


def main() -> None:
    """Prints both tables; fails where a value is another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=None)
    arguments = parser.parse_args()
    versions = {
        "compressed-tensors": ct.__version__,
        "torchao": torchao.__version__,
        "gguf": __import__("importlib.metadata").metadata.version("gguf"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    kept: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    failed = compare_matrices(kept, digests)
    if arguments.golden is not None:
        save_file(kept, arguments.golden, {"made by": json.dumps(versions), "decoded": json.dumps(digests)})
    failed += compare_models()
    if failed:
        raise SystemExit(f"not as they should be: {', '.join(failed)}")


if __name__ == "__main__":
    main()
