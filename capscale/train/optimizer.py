"""AdamW with global clipping, and its schedule as a function of training progress."""

from typing import Any

import jax
import optax
from jax import Array

from capscale.train.run import Optimizer


def gradient_transform(optimizer: Optimizer) -> optax.GradientTransformation:
    """Clip, Adam moments, decoupled weight decay: everything but the learning rate.

    The rate is applied by the train step, as data, so that runs that differ only in rate or in length
    share one compiled program and can be mapped over as a population.
    """
    scale = optax.scale_by_amsgrad if optimizer.amsgrad else optax.scale_by_adam
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip),
        scale(b1=optimizer.b1, b2=optimizer.b2, eps=optimizer.eps),
        optax.add_decayed_weights(optimizer.weight_decay, mask=decayed),
    )


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay acts on: kernels, embedding and head; not gains or learned steps.

    So are stored numbers of kernels, which lie below them: a linear map's matrix decays at the same rate as they do, a
    product of two factors at twice that.
    """
    matrices = {"kernel", "embedding", "head"}
    return jax.tree_util.tree_map_with_path(lambda path, _: not matrices.isdisjoint(key.key for key in path), params)


def rate_at(optimizer: Optimizer, progress: Array) -> Array:
    """Learning rate as a share of its peak, at `progress` in [0, 1] of training."""
    # optax's schedules are plain formulas of count over length; counting in shares of training fits them, though
    # they are annotated for whole steps.
    schedule: Any = optax.schedules
    decay_share = 1.0 - optimizer.warmup
    if optimizer.decay == "cosine":
        decay = schedule.cosine_decay_schedule(1.0, decay_share, alpha=optimizer.final)
    else:
        decay = schedule.linear_schedule(1.0, optimizer.final, decay_share)
    if optimizer.warmup == 0:
        return decay(progress)
    warmup = schedule.linear_schedule(0.0, 1.0, optimizer.warmup)
    return schedule.join_schedules([warmup, decay], [optimizer.warmup])(progress)
