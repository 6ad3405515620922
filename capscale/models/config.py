"""Shape and numerics of a model, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from capscale.checks import check_choice, check_flag, check_real, check_whole
from capscale.errors import UserError
from capscale.models.rope import LinearRope, Llama3Rope

Mlp = Literal["swiglu", "relu2"]
QkNorm = Literal["none", "all-heads", "per-head"]
Projection = Literal["query", "key", "value", "out", "gate", "up", "down"]


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
      family: "llama" (arXiv 2302.13971) or "olmo2" (arXiv 2501.00656): where the norms stand, and what the fields below
        are where they are None.
      kv_heads: key and value heads, each of which serves `heads / kv_heads` queries (arXiv 2305.13245); None: `heads`.
      head_width: features of a head; None: `width / heads`.
      feed_forward_width: hidden width of the feed-forward layer; None: `8/3 * width`, see `hidden`.
      mlp: the feed-forward layer, gated ("swiglu") or not ("relu2"); None: "swiglu" in Llama, "relu2" in OLMo2 (the
        paper's second family; OLMo2 as it was published is gated).
      qk_norm: what queries and keys are normalised over; None: "none" in Llama, "all-heads" in OLMo2.
      biases: projections that add a bias.
      rope_scaling: how rotary wavelengths are stretched; None: not at all.
    """

    JSON_ADDED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        dict.fromkeys(("kv_heads", "head_width", "feed_forward_width", "mlp", "qk_norm", "rope_scaling"))
        | {"biases": ()}
    )

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
    kv_heads: int | None = None
    head_width: int | None = None
    feed_forward_width: int | None = None
    mlp: Mlp | None = None
    qk_norm: QkNorm | None = None
    biases: tuple[Projection, ...] = ()
    rope_scaling: LinearRope | Llama3Rope | None = None

    def __post_init__(self):
        check_whole(self, "layers", "heads", "width", "vocabulary", "context", "multiple_of", least=1)
        check_real(self, "init_std", least=0)
        check_real(self, "rope_theta", "norm_epsilon", above=0)
        check_flag(self, "tied_embeddings")
        check_choice(self, "dtype", ("float32", "bfloat16"))
        check_choice(self, "family", ("llama", "olmo2"))
        check_whole(self, "kv_heads", "head_width", "feed_forward_width", least=1, optional=True)
        check_choice(self, "mlp", (None, *get_args(Mlp)))
        check_choice(self, "qk_norm", (None, *get_args(QkNorm)))
        if self.head_width is None and (self.width % self.heads or (self.width // self.heads) % 2):
            raise UserError(
                f"width={self.width} over heads={self.heads} must give an even whole head width (rotary positions)"
            )
        if self.features_per_head % 2:
            raise UserError(f"head_width={self.head_width} must be even (rotary positions)")
        if self.heads % self.keys_and_values:
            raise UserError(f"kv_heads={self.kv_heads} must divide heads={self.heads}")
        possible = [name for name in get_args(Projection) if name != "gate" or self.gated]
        if not isinstance(self.biases, tuple) or not set(self.biases) <= set(possible):
            raise UserError(f"biases={self.biases!r}: this model has the projections {', '.join(possible)}")
        if list(self.biases) != [name for name in possible if name in self.biases]:
            raise UserError(f"biases={self.biases!r}: name each once, in the order {', '.join(possible)}")
        if not isinstance(self.rope_scaling, LinearRope | Llama3Rope | None):
            raise UserError(f"rope_scaling={self.rope_scaling!r}: give a LinearRope, a Llama3Rope or None")

    @property
    def keys_and_values(self) -> int:
        """Heads of the keys, and of the values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def features_per_head(self) -> int:
        """Width of a head, even."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate beside its way up."""
        return self.mlp == "swiglu" if self.mlp is not None else self.family == "llama"

    @property
    def normalised(self) -> QkNorm:
        """Extent of the norms of queries and keys."""
        return self.qk_norm or ("none" if self.family == "llama" else "all-heads")

    @cached_property
    def hidden(self) -> int:
        """Feed-forward hidden width: `8/3 * width` rounded up to `multiple_of`, and half as much again without a gate.

        Two matrices of 3/2 the width are three: both kinds have as many weights.
        """
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        gated = -(-8 * self.width // (3 * self.multiple_of)) * self.multiple_of
        return gated if self.gated else 3 * gated // 2

    @property
    def projections(self) -> dict[Projection, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block, in the order that they are applied in."""
        queries, keys = self.heads * self.features_per_head, self.keys_and_values * self.features_per_head
        found: dict[Projection, tuple[int, int]] = {
            "query": (self.width, queries),
            "key": (self.width, keys),
            "value": (self.width, keys),
            "out": (queries, self.width),
        }
        if self.gated:
            found["gate"] = (self.width, self.hidden)
        found["up"], found["down"] = (self.width, self.hidden), (self.hidden, self.width)
        return found

    @cached_property
    def non_embedding_parameters(self) -> int:
        """N of the scaling law: every parameter but the embedding and the head; norms and biases included."""
        shapes, head = self.projections, self.features_per_head
        normalised = {
            "none": 0,
            "all-heads": (self.heads + self.keys_and_values) * head,
            "per-head": 2 * head,
        }[self.normalised]
        matrices = sum(inputs * outputs for inputs, outputs in shapes.values())
        biases = sum(shapes[name][1] for name in self.biases)
        return self.layers * (matrices + biases + 2 * self.width + normalised) + self.width
