"""A decoder to be exported: the last checkpoint of a run, or a directory of Hugging Face."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from capscale.cache_names import cache_name
from capscale.checkpoints import huggingface, packed_model
from capscale.checkpoints.architecture import CONFIG
from capscale.data.corpus import DataId
from capscale.errors import UserError
from capscale.files import read_json
from capscale.formats.base import Context
from capscale.formats.catalog import label
from capscale.formats.serialize import from_json, to_json
from capscale.models.assigned import Assigned, Held, assigned, every, full, inputs_alone, weights_alone
from capscale.models.config import ModelConfig
from capscale.models.mixture import MIXED
from capscale.models.parametrized import Stored, stored, with_matrices
from capscale.models.projected import FormatState, project_params
from capscale.models.rope import LinearRope, Llama3Rope
from capscale.operands import DENSE_OPERAND
from capscale.parametrizations import CLASSES
from capscale.policy import Frozen, Rule
from capscale.policy_names import policy_name
from capscale.representation import DENSE, Operand, ProjectedWeight, Representation
from capscale.train.checkpoint import Checkpoints
from capscale.train.corrections import CORRECTIONS
from capscale.train.run import Optimizer
from capscale.train.step import Program, initial_state

RUN = "run.json"
MODELS = (ModelConfig, LinearRope, Llama3Rope)
"""Classes that a model is described by."""


class Source(NamedTuple):
    """A decoder and how its weights are compressed.

    Attributes:
      path: it was read from.
      model, params: of a `Decoder`, float32 master weights; matrices, also of a run that stores other numbers.
      weights: their operand and rotation, activations being left as they are; under a policy, of every layer.
      inputs: of linear layers and of attention's cache, which no container of others says; weights dense there.
      state: of the weights' format, such as RigL's masks.
      data: the text that the run was trained on; None for a checkpoint of Hugging Face.
      batch: sequences of a step, as many as are evaluated at a time.
      tokens: D of the scaling law, that the run was trained on; None for a checkpoint of Hugging Face.
      run_id: of the run, and `step` of its checkpoint; None for a checkpoint of Hugging Face.
      key: data of the key that formats draw noise from; None for a checkpoint of Hugging Face.
      policy: rules that say `weights` and `inputs`, where layers are not all held alike.
      packed: whether the parameters are the values of packed weights, not masters of theirs.
      stored: the numbers that some matrices are made of, where a run stores such; None once these are rounded.
    """

    path: Path
    model: ModelConfig
    params: Any
    weights: Held
    inputs: Held = DENSE
    state: FormatState | None = None
    data: DataId | None = None
    batch: int = 1
    tokens: int | None = None
    run_id: str | None = None
    step: int | None = None
    key: Any = None
    policy: tuple[Rule, ...] = ()
    packed: bool = False
    stored: Stored | None = None

    @property
    def context(self) -> Context:
        """Formats as at the end of training, with the noise that the run's own evaluation drew."""
        return Context(jnp.float32(1), jax.random.key(0) if self.key is None else jax.random.wrap_key_data(self.key))

    @property
    def compressed_activations(self) -> bool:
        """Whether the run compressed its activations too."""
        return any(not each.activations.is_dense for each in every(self.inputs))

    @property
    def weights_name(self) -> str:
        """Name of the weights' format, or the policy."""
        if self.policy:
            return policy_name(self.policy)
        if self.stored is not None and isinstance(self.stored.held, Representation):
            return self.stored.held.weights_label
        return label(self.one_format("a name").weights.format)

    @property
    def activations_name(self) -> str:
        """Name of the format of linear layers' inputs, or "mixed"."""
        if self.policy or isinstance(self.inputs, Assigned):
            return MIXED if self.compressed_activations else label(DENSE_OPERAND.format)
        return label(self.inputs.activations.format)

    @property
    def cache_name(self) -> str:
        """Name of the formats of attention's keys and values, or "mixed"."""
        of_layers = full(self.model, self.inputs).layers
        names = {(block.of("key").keys, block.of("value").values, block.of("key").hadamard) for block in of_layers}
        keys, values, hadamard = next(iter(names))
        return MIXED if len(names) > 1 else cache_name(Representation(keys=keys, values=values, hadamard=hadamard))

    def check_masters(self) -> None:
        """Raises `UserError` for packed weights, which would be rounded twice."""
        if self.packed:
            raise UserError(
                f"{self.path} is packed in {self.weights_name}, and would be rounded twice; give the run, or the "
                "checkpoint, that it was made of"
            )

    def one_format(self, purpose: str) -> Representation:
        """The representation of all weights; raises `UserError` with the purpose where layers have several."""
        if isinstance(self.weights, Representation):
            return self.weights
        raise UserError(
            f"{self.path} is held under the policy {policy_name(self.policy)}, and {purpose} takes one format for all "
            "layers"
        )

    def held(self) -> Any:
        """Parameters with every kernel as `weights` holds it at the end of training, in the basis of master weights.

        These are the values that `linear` multiplies with, but for the rotation of both operands, which is undone.
        """
        if self.packed or (isinstance(self.weights, Representation) and self.weights.weights.is_dense):
            return self.params
        held = project_params(self.params, self.weights, self.context, self.state)
        return jax.tree.map(
            lambda leaf: leaf.value if isinstance(leaf, ProjectedWeight) else leaf,
            held,
            is_leaf=lambda leaf: isinstance(leaf, ProjectedWeight),
        )


def read_source(path: Path, step: int | None = None) -> Source:
    """The decoder in a run's directory, with run.json and checkpoints, in one of Hugging Face, or packed.

    Args:
      path: of the directory.
      step: of the run's checkpoint; its last one that reads back whole if not given.

    Raises:
      UserError: neither of them, a run without the checkpoint or with another run's, or classes of formats from outside
        the package, whose code the run does not hold.
    """
    if (path / RUN).exists():
        return _of_run(path, step)
    if (path / packed_model.DESCRIPTION).exists():
        _refuse_step(step, f"{path} is a packed model")
        return _of_packed(path)
    if (path / CONFIG).exists():
        _refuse_step(step, f"{path} is no run but a checkpoint of Hugging Face")
        model, params = huggingface.load(path)
        return Source(path, model, params, DENSE)
    runs = sorted(found.parent.name for found in path.glob(f"*/*/{RUN}"))[:3] if path.is_dir() else []
    hint = f"; it has runs below it, such as {path / 'runs' / runs[0]}" if runs else ""
    raise UserError(f"{path}: no {RUN} and no {CONFIG}; give the directory of a run, or of a checkpoint{hint}")


def described(source: Source) -> dict[str, Any]:
    """All of a decoder but its parameters, as JSON from which `read_source` makes it again beside packed tensors."""
    return {
        "model": to_json(source.model),
        "weights": to_json(packed_model.rules_of_held(source.weights if source.stored is None else source.stored.held)),
        "inputs": to_json(packed_model.rules_of_held(source.inputs)),
        "policy": to_json(source.policy),
        "data": to_json(source.data),
        "batch": source.batch,
        "tokens": source.tokens,
        "trained": source.run_id,
    }


def _of_packed(path: Path) -> Source:
    tensors, told = packed_model.read(path)
    try:
        model = from_json(told["model"], MODELS)
        weights, inputs = (assigned(model, _policy(told[name])) for name in ("weights", "inputs"))
        data = None if told["data"] is None else from_json(told["data"], (DataId,))
        policy = tuple(_rule(rule) for rule in told["policy"])
        batch, tokens = int(told["batch"]), told["tokens"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / packed_model.DESCRIPTION} describes no model ({error!r}); export it again") from error
    packed_model.check_tensors(path, model, tensors, weights, inputs)
    params = packed_model.unpacked_params(model, tensors, weights)
    return Source(
        path,
        model,
        with_matrices(params, model, weights),
        weights_alone(weights),
        inputs,
        None,
        data,
        batch,
        tokens,
        policy=policy,
        packed=True,
        stored=stored(params, weights),
    )


def _refuse_step(step: int | None, said: str) -> None:
    if step is not None:
        raise UserError(f"{said}, which has no steps; leave --step out")


def _none_kept(path: Path) -> str:
    """Why a run has no checkpoint, and the remedy."""
    result = epath.Path(path / "result.json")
    if result.exists() and read_json(result, "remove it and start the sweep again").get("status") == "diverged":
        return "it diverged, and nothing is saved from there on; leave it out"
    return (
        "sweeps keep the last two of every run, unless somebody removes them; remove the run's result.json and start "
        "its sweep again to train it once more, or give another run"
    )


def _of_run(path: Path, step: int | None) -> Source:
    described = read_json(epath.Path(path / RUN), "give the directory of a run that was not altered")
    try:
        model = from_json(described["model"], MODELS)
        optimizer = from_json(described["optimizer"], (Optimizer, *CORRECTIONS))
        told_as = _policy(described["representation"])
        batch, data = int(described["batch"]), from_json(described["data"], (DataId,))
        steps = round(described["tokens"] / (batch * model.context))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / RUN} describes no run ({error!r}); give the directory of another one") from error
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    run_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    program = Program(model, told_as, optimizer, batch)
    expected = jax.eval_shape(partial(initial_state, program), jax.ShapeDtypeStruct((), jnp.int32))
    directory = path / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"{path}: no checkpoint kept; {_none_kept(path)}")
    with Checkpoints(epath.Path(directory), run_id=run_id) as checkpoints:
        checkpoints.check_owner()
        kept = checkpoints.steps()
        if not kept:
            raise UserError(f"{path}: no checkpoint kept; {_none_kept(path)}")
        if step is not None and step not in kept:
            raise UserError(f"{path}: no checkpoint of step {step} kept; there are {', '.join(map(str, kept))}")
        states = ((each, checkpoints.read(each, expected)) for each in (kept if step is None else [step]))
        found, state = next(((each, state) for each, state in states if state is not None), (None, None))
    if state is None:
        raise UserError(f"{path}: no checkpoint that reads back whole; {_none_kept(path)}")
    return Source(
        path,
        model,
        with_matrices(state.params, model, program.held),
        weights_alone(program.held),
        inputs_alone(program.held),
        state.formats,
        data,
        batch,
        tokens=steps * batch * model.context,
        run_id=run_id,
        step=found,
        key=state.key,
        policy=told_as if isinstance(told_as, tuple) else (),
        stored=stored(state.params, program.held),
    )


def _policy(told: Any) -> Frozen:
    return tuple(_rule(rule) for rule in told) if isinstance(told, list) else _forward(told)


def _rule(told: Any) -> Rule:
    return Rule(told["pattern"], _forward(told["representation"]), starts=told.get("starts", 0.0))


def _forward(told: Any) -> Representation:
    """A representation from JSON as products forward see it: no estimators, which may be of classes from outside."""
    weights, activations = (Operand(from_json(told[side]["format"])) for side in ("weights", "activations"))
    keys, values = (
        Operand(from_json(told[side]["format"])) if side in told else DENSE_OPERAND for side in ("keys", "values")
    )
    stored = from_json(told.get("parametrization"), CLASSES)
    rotation = told["hadamard"], told.get("signs")
    return Representation(weights, activations, *rotation, keys=keys, values=values, parametrization=stored)
