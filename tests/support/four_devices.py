"""Steps on four CPU devices, compiled and not run: what these would send each other. Run as a script.

Its argument is a JSON list of cases, each of them keywords of `sent`; it prints the list of what that returns. Rows of
weights are projected by the reference, split over devices as rows of a kernel are (`capscale.kernels.mesh.by_rows`):
left to XLA, it would split them as weights are, whatever rule there is.
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any


def sent(
    weights: str, *, fsdp: int = 4, microbatches: int = 1, gather: str = "step", split: bool = True, layers: int = 2
) -> dict[str, Any]:
    """Bytes that a device sends in a step, by kind of collective, and those of the parameters that devices share.

    `split`: whether devices project their own outputs, by the rule of `capscale.train.sharding.by_outputs`.
    """
    import jax
    import jax.numpy as jnp
    from capscale.kernels.project import op, reference

    from capscale import fused
    from capscale.representation import Representation, operand
    from capscale.sweep.schedule import read_schedule
    from capscale.train import step
    from capscale.train.memory import Memory
    from capscale.train.run import Optimizer
    from capscale.train.sharding import batch_sharding, make_mesh, replicated, state_sharding
    from support import tiny

    model = replace(tiny.MODEL, layers=layers, width=32, vocabulary=128, multiple_of=32, tied_embeddings=False)
    held = Representation(operand(weights), hadamard=None if weights == "dense" else 32)
    run = tiny.run(batch=16, model=model, optimizer=Optimizer(0.02), representation=held)
    memory: Any = {"microbatches": microbatches, "gather": gather}
    program, mesh = step.Program.of(run, Memory(**memory), 4), make_mesh(fsdp)
    state = jax.eval_shape(lambda: step.initial_state(program, jnp.int32(1)))
    pace = jax.eval_shape(lambda: step.RunScalars(jnp.float32(0), jnp.int32(1)))
    windows = jax.ShapeDtypeStruct((1, run.batch, model.context + 1), jnp.uint16)
    shardings = (state_sharding(mesh, state), batch_sharding(mesh, 1), replicated(mesh), replicated(mesh))
    fused.choose = lambda *_, **__: op.BackendChoice("tpu")
    op._module = lambda *_: reference
    rule = step.by_outputs
    step.by_outputs = rule if split else lambda function, kernel, ctx: function(kernel, ctx)
    try:
        with jax.set_mesh(mesh):
            chunk = jax.jit(
                partial(step.train_chunk, program),
                in_shardings=shardings,
                out_shardings=(shardings[0], shardings[3]),
            )
            text = chunk.lower(state, windows, jax.ShapeDtypeStruct((), jnp.int32), pace).compile().as_text()
    finally:
        step.by_outputs = rule
    assert text is not None
    found = read_schedule(text, 4, share_of_conditionals=0)
    leaves = zip(jax.tree.leaves(state.params), jax.tree.leaves(shardings[0].params), strict=True)
    return {"sent": found.sent, "shared": sum(4 * leaf.size for leaf, of in leaves if "fsdp" in of.spec)}


if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_num_cpu_devices", 4)
    sys.stdout.write(json.dumps([sent(**case) for case in json.loads(sys.argv[1])]))
