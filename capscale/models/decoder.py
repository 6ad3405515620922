"""Decoders of both families: embedding, scanned layers, final norm, head."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from capscale.formats.base import Context
from capscale.kernels import dispatch
from capscale.models.assigned import Assigned, Held, full, stored_of, table_of
from capscale.models.config import ModelConfig
from capscale.models.layers import NOISE, RMSNorm
from capscale.models.learned_steps import joined_steps, start_steps
from capscale.models.llama import LlamaBlock
from capscale.models.loss import cross_entropy, logits, mean_cross_entropy
from capscale.models.olmo2 import Olmo2Block
from capscale.representation import DENSE, ProjectedWeight, project_activations, project_weights

WRITTEN_OUT = 2**22
"""Least N of models whose layers are written out on CPUs. A step of theirs is long enough to win back within a hundred
steps what compiling takes longer; smaller ones compile for as long as they train."""

_BLOCKS = {"llama": LlamaBlock, "olmo2": Olmo2Block}


class Decoder(nn.Module):
    """Token ids to logits or losses. Norms stay dense; so do embedding and head, unless a policy names them.

    `representation`: of all linear layers, or of each (`capscale.models.assigned`). The parameters are the same, those
    of all layers in one array; layers that follow each other and are held alike are scanned together.
    With `remat`, the backward pass computes each layer anew from its input instead of keeping what is inside.
    With `unroll`, layers are written out one after the other, whatever `WRITTEN_OUT` says.
    """

    config: ModelConfig
    representation: Held = DENSE
    remat: bool = False
    unroll: bool = False

    def setup(self) -> None:
        """Embedding, layers and head."""
        cfg = self.config
        init = nn.initializers.normal(cfg.init_std)
        shape = (cfg.vocabulary, cfg.width)
        self.embedding = self.param("embedding", init, shape, jnp.float32)
        block = _BLOCKS[cfg.family]
        layers = nn.scan(
            nn.remat(block, prevent_cse=self.unroll) if self.remat else block,
            variable_axes={"params": 0},
            split_rngs={"params": True, NOISE: True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=cfg.layers,
            unroll=cfg.layers if self._written_out(cfg.layers) else 1,
        )
        # Of several representations it makes the parameters alone: `_segments` applies them.
        held = self.representation
        self.layers = layers(cfg, stored_of(held) if isinstance(held, Assigned) else held)
        self.final_norm = RMSNorm(cfg.norm_epsilon)
        self.head = self.embedding if cfg.tied_embeddings else self.param("head", init, shape, jnp.float32)

    def _written_out(self, layers: int) -> bool:
        """Whether so many layers are written out one after the other, in place of a loop over one compiled body.

        Two are, as a loop costs more than tiny layers do. On CPUs so are those of larger models: a loop copies what the
        backward pass needs into arrays of all layers and out of them again, which takes a fifth of a step. With `remat`
        a loop it stays there: it keeps nothing inside of layers, and without one XLA has to be kept from merging the
        second computation of a layer with its first. Where parameters are made, once a run, it is a loop.
        """
        large = self.config.non_embedding_parameters >= WRITTEN_OUT and dispatch.current().platform == "cpu"
        wanted = self.unroll or (large and not self.remat)
        return layers <= 2 or (wanted and not self.is_initializing())

    def features(self, tokens_BT: Array, ctx: Context) -> Array:
        """Inputs of the head, `(B, T, M)` in the compute dtype, for int token ids `(B, T)`."""
        x_BTM = jnp.take(self._table("embedding", ctx), tokens_BT, axis=0).astype(self.config.dtype)
        if isinstance(self.representation, Assigned) and not self.is_initializing():
            x_BTM, _ = self._segments(self.representation, x_BTM, ctx)
        else:
            x_BTM, _ = self.layers(x_BTM, ctx)
        return self.final_norm(x_BTM)

    def first_steps(self, tokens_BT: Array, ctx: Context) -> dict[str, Array]:
        """Where learned scales of the layers' inputs start, by path and over all layers: see `learned_steps`."""
        x_BTM = jnp.take(self._table("embedding", ctx), tokens_BT, axis=0).astype(self.config.dtype)
        _, made = self._segments(full(self.config, self.representation), x_BTM, ctx, starting=True)
        return made

    def _segments(
        self, held: Assigned, x_BTM: Array, ctx: Context, starting: bool = False
    ) -> tuple[Array, dict[str, Array]]:
        """The layers run by run of those that are held alike; with `starting` also what their inputs' formats learn."""
        cfg, params = self.config, self.variables["params"]["layers"]
        keys = jax.random.split(self.make_rng(NOISE), cfg.layers) if self.has_rng(NOISE) else None
        made = []
        for start, stop, block in held.segments:
            module = _BLOCKS[cfg.family](cfg, block, parent=None)

            def layer(
                x_BTM: Array, of_layer: tuple[Any, Array | None], module: nn.Module = module
            ) -> tuple[Array, Any]:
                own, key = of_layer
                rngs = {} if key is None else {NOISE: key}
                if starting:
                    return start_steps(module, own, x_BTM, ctx, rngs)
                return module.apply({"params": own}, x_BTM, ctx, rngs=rngs)

            here = jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], (params, keys))
            body = jax.checkpoint(layer, prevent_cse=self.unroll) if self.remat else layer
            count = stop - start
            x_BTM, steps = jax.lax.scan(body, x_BTM, here, unroll=count if self._written_out(count) else 1)
            made.append((count, steps))
        return x_BTM, joined_steps(made) if starting else {}

    def _table(self, name: Literal["embedding", "head"], ctx: Context) -> Array:
        """Embedding or head, as it is held; `(V, M)`."""
        table = getattr(self, name)
        if isinstance(table, ProjectedWeight):
            return table.value
        held = table_of(self.representation, self._owner(name))
        return table if held.weights.is_dense else project_weights(table.T, held, ctx).T

    def _owner(self, name: Literal["embedding", "head"]) -> Literal["embedding", "head"]:
        return "embedding" if self.config.tied_embeddings else name

    def _to_head(self, x_BTM: Array, ctx: Context) -> Array:
        """Inputs of the head, as they are held."""
        held = table_of(self.representation, self._owner("head"))
        return project_activations(x_BTM, held, ctx) if not held.activations.is_dense else x_BTM

    def __call__(self, tokens_BT: Array, ctx: Context) -> Array:
        """Logits `(B, T, V)` in fp32 for int token ids `(B, T)`."""
        x_BTM = self._to_head(self.features(tokens_BT, ctx), ctx)
        return logits(x_BTM, self._table("head", ctx), self.config.dtype)

    def losses(self, window_BU: Array, ctx: Context, at_once: int) -> Array:
        """Cross-entropy in nats of every target, `float32 (B, T)`.

        `window_BU` holds `T + 1` ids: inputs are the first T, targets the last T. The logits of `at_once` tokens of
        each sequence, a divisor of T, exist together.
        """
        x_BTM = self._to_head(self.features(window_BU[:, :-1], ctx), ctx)
        return cross_entropy(x_BTM, self._table("head", ctx), window_BU[:, 1:], self.config.dtype, at_once)

    def mean_loss(self, window_BU: Array, ctx: Context, at_once: int) -> Array:
        """Mean of `losses`, float32 scalar, to be differentiated: see `mean_cross_entropy`."""
        x_BTM = self._to_head(self.features(window_BU[:, :-1], ctx), ctx)
        return mean_cross_entropy(x_BTM, self._table("head", ctx), window_BU[:, 1:], self.config.dtype, at_once)
