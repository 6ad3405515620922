"""Shape and numerics of a model, as a value."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from capscale.checks import check_choice, check_flag, check_real, check_whole
from capscale.errors import UserError


@dataclass(frozen=True)
class ModelConfig:
    """Shape and numerics of one decoder.

    Attributes:
      layers, heads, width: of the decoder; the head width is `width / heads`.
      vocabulary: rows of the embedding and of the head.
      context: tokens per sequence.
      multiple_of: what the hidden width of a SwiGLU is rounded up to.
      tied_embeddings: the head is the embedding.
      dtype: of the computation; masters are float32.
      init_std: deviation of initial weights.
      rope_theta: base of the rotary wavelengths.
      norm_epsilon: added to mean squares.
      family: "llama" (arXiv 2302.13971) or "olmo2" (arXiv 2501.00656) with squared ReLUs.
    """

    layers: int
    heads: int
    width: int
    vocabulary: int
    context: int
    multiple_of: int = 256
    tied_embeddings: bool = False
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    init_std: float = 0.02
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5
    family: Literal["llama", "olmo2"] = "llama"

    def __post_init__(self):
        check_whole(self, "layers", "heads", "width", "vocabulary", "context", "multiple_of", least=1)
        check_real(self, "init_std", least=0)
        check_real(self, "rope_theta", "norm_epsilon", above=0)
        check_flag(self, "tied_embeddings")
        check_choice(self, "dtype", ("float32", "bfloat16"))
        check_choice(self, "family", ("llama", "olmo2"))
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(
                f"width={self.width} over heads={self.heads} must give an even whole head width (rotary positions)"
            )

    @cached_property
    def hidden(self) -> int:
        """Feed-forward hidden width: `8/3 * width` rounded up to `multiple_of`, and half as much again in OLMo2.

        Two matrices of 3/2 the width are three: both families have as many weights.
        """
        gated = -(-8 * self.width // (3 * self.multiple_of)) * self.multiple_of
        return gated if self.family == "llama" else 3 * gated // 2

    @cached_property
    def non_embedding_parameters(self) -> int:
        """N of the scaling law: every parameter but the embedding and the head; norms included."""
        matrices, norms = (3, 2) if self.family == "llama" else (2, 4)
        per_layer = 4 * self.width**2 + matrices * self.width * self.hidden + norms * self.width
        return self.layers * per_layer + self.width
