"""The command that writes a decoder for other libraries."""

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from capscale.cli.selecting import PolicyOption, rule_texts
from capscale.errors import UserError


@dataclass(frozen=True)
class Export:
    """Write a run, or a checkpoint of Hugging Face, for other libraries: dense, rounded, or packed.

    Reads a run's directory (its last checkpoint) and directories of Llama, Qwen2, Qwen3 and OLMo2 with config.json and
    safetensors. `hf` writes values, which transformers loads; `capscale` the bytes of any format, each matrix in its
    own, which `capscale evaluate` reads; `compressed-tensors` (vLLM), `torchao` and `gguf` (llama.cpp, without a
    tokenizer) write codes and scales, of formats that they have a layout for; others are refused with the nearest.

    Examples:
      capscale export runs/micro/runs/0123456789abcdef --as hf --out exported
      capscale export Llama-3.2-1B --weights absmax-twos-int4-g128-bf16 --as compressed-tensors --out Llama-int4
      capscale export Llama-3.2-1B --weights mxfp4 --as gguf --out Llama-mxfp4
      capscale export Llama-3.2-1B --policy rules.txt --as capscale --out Llama-mixed
    """

    source: tyro.conf.Positional[str]
    """Directory of a run, or of a checkpoint."""
    to: Annotated[Literal["hf", "capscale", "compressed-tensors", "torchao", "gguf"], tyro.conf.arg(name="as")]
    """Layout of the files."""
    out: Annotated[str, tyro.conf.arg(metavar="DIRECTORY")]
    """Directory to make; one with files in it is refused."""
    weights: str | None = None
    """Format of the linear layers' weights, as `capscale gmse` names it. None: what the run was trained in."""
    policy: PolicyOption = ()
    """Rules, or files of rules, in place of --weights; embedding and head where they are named."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of all that is not packed. None: that of the model's computation."""
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Reads, writes and names the files."""
        from capscale.checkpoints.export import export, weights_only, with_policy, with_weights
        from capscale.checkpoints.safetensors_file import local_path
        from capscale.checkpoints.source import read_source
        from capscale.cli.waiting import waiting
        from capscale.formats.catalog import find
        from capscale.policy_names import find_policy

        out = local_path(self.out)
        if self.weights is not None and self.policy:
            raise UserError("--policy says the format of every matrix; leave --weights out")
        format = None if self.weights is None else find(self.weights)
        rules = find_policy(rule_texts(self.policy)) if self.policy else None
        with waiting(f"exporting {self.source}"):
            read = read_source(local_path(self.source))
            source = with_weights(read, format) if rules is None else with_policy(read, rules)
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
