"""The command that writes a decoder for other libraries."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Export:
    """Write a run, or a checkpoint of Hugging Face, for other libraries: dense, rounded, or packed.

    Reads a run's directory (its last checkpoint) and directories of Llama, Qwen2, Qwen3 and OLMo2 with config.json and
    safetensors. `hf` writes values, which transformers loads; `compressed-tensors` (vLLM), `torchao` and `gguf`
    (llama.cpp, without a tokenizer) write codes and scales, of formats that they have a layout for; others are refused
    with the nearest.

    Examples:
      capscale export runs/micro/runs/0123456789abcdef --as hf --out exported
      capscale export Llama-3.2-1B --weights absmax-twos-int4-g128-bf16 --as compressed-tensors --out Llama-int4
      capscale export Llama-3.2-1B --weights mxfp4 --as gguf --out Llama-mxfp4
    """

    source: tyro.conf.Positional[str]
    """Directory of a run, or of a checkpoint."""
    to: Annotated[Literal["hf", "compressed-tensors", "torchao", "gguf"], tyro.conf.arg(name="as")]
    """Layout of the files."""
    out: Annotated[str, tyro.conf.arg(metavar="DIRECTORY")]
    """Directory to make; one with files in it is refused."""
    weights: str | None = None
    """Format of the linear layers' weights, as `capscale gmse` names it. None: what the run was trained in."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of all that is not packed. None: that of the model's computation."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Reads, writes and names the files."""
        from capscale.checkpoints.export import export, weights_only, with_weights
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.waiting import waiting
        from capscale.formats.catalog import find

        out = local_path(self.out)
        format = None if self.weights is None else find(self.weights)
        with waiting(f"exporting {self.source}"):
            source = with_weights(read_source(local_path(self.source)), format)
            written = export(source, self.to, out, self.dtype)
        content = {
            "files": [str(file) for file in written.files],
            "weights": source.weights_name,
            "layout": written.layout,
            "bits": written.bits,
            "packed_bytes": written.packed_bytes,
            "other_bytes": written.other_bytes,
            "remark": weights_only(source),
        }
        if self.json:
            print(json.dumps(content, indent=1))
            return 0
        bits = "values" if written.bits is None else f"{written.bits:.4f} bits a value"
        print(f"{content['weights']} as {written.layout}: {bits}, {written.packed_bytes + written.other_bytes:,} bytes")
        if content["remark"]:
            print(content["remark"])
        print("\n".join(str(file) for file in written.files))
        return 0
