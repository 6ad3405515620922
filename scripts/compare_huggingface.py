"""Decoders beside those of transformers: logits and gradients of small random models, in and out.

    pip install torch transformers && python scripts/compare_huggingface.py [--fixtures tests/checkpoints/fixtures]

Each architecture is made by transformers from a config that uses all that is read of it (grouped heads, biases, norms a
head, tied embeddings, stretched wavelengths), with weights of order one, and saved by `save_pretrained`. Then:

- in: what `capscale.checkpoints.huggingface.load` makes of the files has the logits and the gradients of the mean
  cross-entropy that torch computes in float32, within 1e-5 of the largest of each tensor;
- out: what `save` writes of it is loaded by transformers, with every weight and every logit bit for bit as it was.

With `--fixtures`, the models and what torch computed of them are kept for the tests, which need neither package.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from jax import Array
from safetensors.numpy import load_file, save_file

from capscale.checkpoints.huggingface import load, places, rows_of, save
from capscale.formats.base import NO_CONTEXT
from capscale.models.decoder import Decoder

TOLERANCE = 1e-5
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": LLAMA3, "rms_norm_eps": 1e-5, "head_dim": 6}),
    "llama-biased": (
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
        },
    ),
    "qwen2": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e3}}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "olmo2": ("olmo2", {"eos_token_id": 2, "pad_token_id": None}),
}
BATCH, TOKENS = 2, 12
SHARDED = "qwen3"
"""Is saved in shards, with an index."""
BFLOAT16 = "qwen2"
"""Is saved in bfloat16."""


def make(name: str, directory: Path) -> Any:
    """A random model of transformers, saved; its parameters are of order one so that nothing hides."""
    kind, changes = MODELS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **(SHAPE | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
    if name == BFLOAT16:
        model = model.bfloat16()
    model.save_pretrained(directory, max_shard_size="6KB" if name == SHARDED else "1GB")
    return loaded(directory)  # `.bfloat16()` rounds the frequencies of positions too, which a checkpoint does not hold


def loaded(directory: Path) -> Any:
    """The model that transformers makes of a directory, computed in float32."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    return load(directory, attn_implementation="eager", dtype=torch.float32).eval()


def torch_reference(model: Any) -> dict[str, np.ndarray]:
    """Tokens, logits, and gradients of the mean cross-entropy of the next token, by name of the parameter."""
    tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (BATCH, TOKENS), np.int64)
    logits = model(torch.asarray(tokens)).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.asarray(tokens[:, 1:]).flatten())
    model.zero_grad()
    loss.backward()
    gradients = {f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()}
    return {"tokens": tokens, "logits": logits.detach().numpy(), "loss": loss.detach().numpy()[None], **gradients}


def compare(directory: Path, reference: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of the logits and of every gradient, each as a share of the largest magnitude."""
    model, params = load(directory)
    tokens = jnp.asarray(reference["tokens"], jnp.int32)
    decoder = Decoder(replace(model, dtype="float32"))

    def loss(params: Any) -> tuple[Any, Any]:
        logits = cast(Array, decoder.apply({"params": params}, tokens, NO_CONTEXT))
        logp = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.mean(jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    found = {"logits": logits} | {f"gradient/{n}": rows_of(gradient, p) for n, p in places(model).items()}
    return {n: float(np.abs(v - reference[n]).max() / np.abs(reference[n]).max()) for n, v in found.items()}


def written(directory: Path, model: Any, tokens: np.ndarray) -> bool:
    """Whether transformers loads what `save` writes, with the weights and the logits of before."""
    with tempfile.TemporaryDirectory() as out:
        save(Path(out) / "out", *load(directory))
        again = loaded(Path(out) / "out")
        weights = again.state_dict()
        same = all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        with torch.no_grad():
            return same and torch.equal(again(torch.asarray(tokens)).logits, model(torch.asarray(tokens)).logits)


def main() -> None:
    """Prints a row for each model; fails where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, default=None)
    arguments = parser.parse_args()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"{'model':14}{'logits':>10}{'gradients':>11}  out")
    failed = []
    for name in MODELS:
        with tempfile.TemporaryDirectory() as temporary:
            directory = (arguments.fixtures or Path(temporary)) / name
            model = make(name, directory)
            reference = torch_reference(model)
            differences = compare(directory, reference)
            worst = max(value for key, value in differences.items() if key != "logits")
            same = written(directory, model, reference["tokens"])
            print(f"{name:14}{differences['logits']:>10.1e}{worst:>11.1e}  {'equal' if same else 'DIFFERS'}")
            failed += [name] if max(worst, differences["logits"]) > TOLERANCE or not same else []
            if arguments.fixtures:
                (directory / "generation_config.json").unlink(missing_ok=True)
                made = {"transformers": transformers.__version__, "torch": torch.__version__}
                save_file(reference, directory / "reference.safetensors", {"made by": json.dumps(made)})
                assert load_file(directory / "reference.safetensors").keys() == reference.keys()
    if failed:
        raise SystemExit(f"not as transformers has them: {', '.join(failed)}")


if __name__ == "__main__":
    main()
