"""FLOPs of training, and what chips can do: for the share of the peak that is reached (MFU)."""

from capscale.kernels.chips import TPUS
from capscale.models.config import ModelConfig

PEAK = {
    "TPU v4": TPUS["v4"].peak,
    "TPU v5 lite": TPUS["v5e"].peak,
    "TPU v5e": TPUS["v5e"].peak,
    "TPU v5": TPUS["v5p"].peak,
    "TPU v5p": TPUS["v5p"].peak,
    "TPU v6 lite": TPUS["v6e"].peak,
    "TPU v6e": TPUS["v6e"].peak,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835.5e12,
    "NVIDIA H200": 989.4e12,
}
"""Dense bfloat16 FLOP/s of a chip by the beginning of its name in `jax.Device.device_kind`.

GPUs: the data sheets of NVIDIA, SXM where not said otherwise, without sparsity.
"""


def flops_per_token(model: ModelConfig) -> float:
    """Training FLOPs of a token, `6 (N + V M) + 12 L H K T`: with head and attention (arXiv 2204.02311, appendix B)."""
    matrices = model.non_embedding_parameters + model.vocabulary * model.width
    heads = model.heads * model.features_per_head
    return 6.0 * matrices + 12.0 * model.layers * heads * model.context


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of a device, None for kinds that are not in the table; the longest name that fits wins."""
    fitting = [name for name in PEAK if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-"))]
    return PEAK[max(fitting, key=len)] if fitting else None
