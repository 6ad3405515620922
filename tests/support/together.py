"""One process of several, or one alone, that trains a run over its devices and says what it saw; run as a script.

Its argument is a JSON object with the arguments of `main`; it prints one too, after the word REPORT.
"""

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path


def main(
    *, directory: str, address: str, processes: int, index: int, devices: int, fsdp: int, stop_at: int, unread: str
) -> None:
    """Process `index` of so many, with so many devices each; stops as by a signal at step `stop_at`, 0 for never.

    `unread`: what the last process is told when it reads its first checkpoint, nothing by default.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from capscale.train.distributed import connect

    if processes > 1:
        connect(address, processes, index)
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint as ocp
    from jax.experimental import multihost_utils

    from capscale.errors import UserError
    from capscale.formats.base import Context
    from capscale.models.projected import project_params
    from capscale.train.checkpoint import Checkpoints
    from capscale.train.executor import Sharded
    from capscale.train.sharding import make_mesh
    from capscale.train.step import Program
    from support import tiny

    run = tiny.run(batch=8, tokens=12 * 8 * 16, model=replace(tiny.MODEL, width=16, multiple_of=16))
    executor = Sharded(run, make_mesh(fsdp))
    report = {"process_count": jax.process_count(), "devices": len(jax.devices()), "rows": executor.rows.indices(8)}

    state = executor.initial_state([run])
    kernels = [leaf for leaf in jax.tree.leaves((state.params, state.moments)) if leaf.ndim == 3]
    report["kernel_bytes"] = sum(leaf.addressable_shards[0].data.nbytes for leaf in kernels)

    def masked(params):
        held, pull = jax.vjp(
            lambda p: project_params(p, Program.of(run).representation, Context(jnp.float32(0))), params
        )
        return held, pull(jax.tree.map(jnp.ones_like, held))

    everywhere = jax.sharding.NamedSharding(make_mesh(fsdp), jax.sharding.PartitionSpec())
    whole = jax.tree.leaves(jax.jit(masked, out_shardings=everywhere)(state.params))
    report["masks"] = [int(np.asarray(leaf).view(np.uint32).astype(np.uint64).sum()) for leaf in whole]

    real, errors = ocp.CheckpointManager.restore, [ValueError(unread)] if unread and index == processes - 1 else []

    def restore(self, *args, **kwargs):
        if errors:
            raise errors.pop()
        return real(self, *args, **kwargs)

    ocp.CheckpointManager.restore = restore

    if stop_at and index == 0:  # one process is told, and all stop
        tiny.interrupt([run], [Path(directory)], executor, at=stop_at)
    elif stop_at:
        with contextlib.suppress(tiny.Interrupted):
            tiny.train_one(run, Path(directory), executor)
    else:
        try:
            report["row"] = tiny.train_one(run, Path(directory), executor)["row"]
        except UserError as error:
            report["error"] = str(error)
    with Checkpoints(Path(directory) / "checkpoints") as checkpoints:
        report["steps"] = checkpoints.steps()
    if processes > 1:
        multihost_utils.sync_global_devices("end")
    sys.stdout.write("REPORT" + json.dumps(report))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
