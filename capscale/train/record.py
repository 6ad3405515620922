"""result.json: what a run leaves behind, written last."""

import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from etils import epath

from capscale import __version__
from capscale.artifacts import RESULT_SCHEMA, check_result, sealed
from capscale.cache_names import cache_name
from capscale.defaults import default_estimator
from capscale.errors import UserError
from capscale.estimator_names import estimator_name
from capscale.files import read_json_if_there, write_json
from capscale.formats import catalog
from capscale.gaussian_mse import pass_rate
from capscale.gradient_names import gradients_name
from capscale.models.assigned import every
from capscale.models.mixture import format_gmse, mixture_of, of_format
from capscale.models.parametrized import Counted, counted
from capscale.models.slices import at_width, nested_in
from capscale.policy import Frozen
from capscale.policy_names import policy_name
from capscale.realised import COLUMNS
from capscale.representation import Representation
from capscale.train.distributed import is_first
from capscale.train.run import Run, described

Status = Literal["ok", "diverged"]


def result_row(
    run: Run, loss: float | None, loss_se: float | None, bytes_per_symbol: float, held: Frozen | None = None
) -> dict[str, Any]:
    """The run's line in a table: coordinates, loss in nats per token with its standard error, GMSEs.

    The losses are None for a diverged run. `loss_se` is the sampling error of the validation text,
    shared by all runs scored on it. Gradients have a column where they are compressed, and where devices send them
    rounded (`reduce`), and so has a correction of the weights: rows of runs without are as they were before there was
    one. `held`: what the weights were held in for this
    loss, where not as the run says.
    """
    return {
        "model": run.size,
        "family": run.model.family,
        "width": run.model.width,
        "N": run.non_embedding_parameters,
        "D": run.trained_tokens,
        "loss": loss,
        "loss_se": loss_se,
        "bits_per_byte": None if loss is None else loss / math.log(2) / bytes_per_symbol,
        **_formats(run, run.representation if held is None else held),
        **({} if run.optimizer.correction is None else {"correction": run.optimizer.correction.name}),
        **({} if run.optimizer.reduce == "float32" else {"reduce": run.optimizer.reduce}),
        "seed": run.seed,
        "learning_rate": run.optimizer.learning_rate,
        "steps": run.steps,
    }


def slice_row(
    run: Run, width: int, loss: float | None, loss_se: float | None, bytes_per_symbol: float
) -> dict[str, Any]:
    """The line of one slice of a run with nested weights: a point of its own, of weights that all widths trained.

    `slice_of` names the format that was trained; what weights tell of themselves is told of the widest alone.
    """
    nested = nested_in(run.held)
    assert nested is not None
    row = result_row(run, loss, loss_se, bytes_per_symbol, at_width(run.representation, width))
    return row | dict.fromkeys(COLUMNS[1:]) | {"slice_of": catalog.label(nested)}


def _formats(run: Run, held: Frozen) -> dict[str, Any]:
    """Columns of the formats; of a policy its rules, and means over the weights of the layers.

    Of a policy the words are `mixed`, so that no reader takes its rows for those of one format, and its estimators and
    rotations stand in its rules. See `capscale.models.mixture` for the means.
    """
    stored = counted(run.model, held)
    if not isinstance(held, Representation):
        mixture = mixture_of(run.model, held)
        return {
            "policy": policy_name(held),
            "weights": mixture.weights,
            "activations": mixture.activations,
            "weights_estimator": None,
            "activations_estimator": None,
            "default_estimators": all(_usual(each) for each in every(run.held)),
            "hadamard": None,
            "weights_gmse": mixture.weights_gmse,
            "activations_gmse": mixture.activations_gmse,
            **_stored(run, stored),
        }
    return {
        "weights": held.weights_label,
        "activations": catalog.label(held.activations.format),
        "weights_estimator": estimator_name(held.weights.backward()),
        "activations_estimator": estimator_name(held.activations.backward()),
        "default_estimators": _usual(held),
        "hadamard": held.rotation,
        **({} if held.gradients.is_dense else {"gradients": gradients_name(held.gradients)}),
        **({"cache": cache_name(held)} if held.caches_compressed else {}),
        "weights_gmse": of_format(run.model, held.weights.format)[0] if held.parametrization is None else stored.gmse,
        "activations_gmse": format_gmse(held.activations.format),
        **_stored(run, stored),
    }


def _stored(run: Run, found: Counted) -> dict[str, int]:
    """Numbers that are stored in place of N, in a column that only rows of a parametrization have."""
    return {"stored_numbers": run.non_embedding_parameters - found.entries + found.stored} if found.names else {}


def _usual(held: Representation) -> bool:
    """Whether both estimators are the defaults of their formats."""
    sides = (held.weights, held.activations)
    return all(side.backward() == default_estimator(side.format, held.hadamard is not None) for side in sides)


def weights_row(run: Run, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Realised statistics of compressed weights, as columns of the run's line; None for dense weights.

    `weights_realised_error`: `||held - masters||^2 / ||masters||^2`, to be held against `weights_gmse`.
    `weights_pass_rate`: share of the gradient that the mask lets through, to be held against
    `weights_pass_rate_gaussian`, that of Gaussian weights. Averages over the run; with `_end`, at its last step. See
    `capscale.models.compression`. Of activations nothing is measured. None as well under a policy: one number of
    several formats has no GMSE that it is to be held against (`metrics` of the result has it all the same).
    """
    if not isinstance(run.representation, Representation):
        return dict.fromkeys(COLUMNS[1:])
    weights = run.representation.weights
    columns = {
        "weights_realised_error": metrics.get("weights_error"),
        "weights_realised_error_end": metrics.get("weights_error_end"),
        "weights_pass_rate": metrics.get("mask_pass_rate"),
        "weights_pass_rate_end": metrics.get("mask_pass_rate_end"),
        "weights_pass_rate_gaussian": None if weights.is_dense else pass_rate(weights),
    }
    return dict.fromkeys(columns) if weights.is_dense else columns


def loss_with_error(losses: np.ndarray, blocks: np.ndarray) -> tuple[float, float]:
    """Mean of window losses and its standard error, windows of one held-out block being taken as one draw.

    Neighbouring windows are of one text, so counting each as independent would understate the error.
    """
    mean = losses.mean(dtype=np.float64)
    _, number = np.unique(blocks, return_inverse=True)
    deviation = np.bincount(number, weights=losses - mean)
    count = len(deviation)
    return float(mean), float(np.sqrt(count / max(count - 1, 1) * np.square(deviation).sum()) / len(losses))


def result(
    run: Run,
    status: Status,
    row: dict[str, Any],
    timing: dict[str, Any],
    metrics: dict[str, float | None] | None = None,
    *,
    slices: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The content of result.json; `metrics`: averages over the run of what training measured, and their `_end`.

    `slices`: rows of the slices of nested weights, beside that of the widest.
    """
    content = {
        "schema": RESULT_SCHEMA,
        "run_id": run.run_id,
        "status": status,
        "row": row,
        **({"slices": list(slices)} if slices else {}),
        "metrics": metrics or {},
        "run": described(run),
        "timing": timing,
        "versions": versions(),
    }
    return sealed(content)


def versions() -> dict[str, str]:
    """Versions and device that made a number."""
    return {
        "capscale": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def read_result(directory: epath.Path, run: Run) -> dict[str, Any] | None:
    """The finished result of `run` in its directory, None if there is none yet.

    `UserError` if it is damaged, altered, or of another run.
    """
    path = directory / "result.json"
    remedy = "remove it and start the sweep again to train this run once more"
    found = read_json_if_there(path, remedy)
    if found is not None:
        check_result(path, found, run.run_id, remedy)
    return found


def write_result(directory: epath.Path, new: dict[str, Any], run: Run) -> None:
    """Writes result.json once; a second, different result of the same run is an error and is kept beside it."""
    if write_json(directory / "result.json", new, new=True):
        return
    old = read_result(directory, run)
    if old is None or _said(old) != _said(new):
        write_json(directory / "result.conflict.json", new)
        raise UserError(
            f"run {run.run_id} ended twice with different results: compare result.json and "
            f"result.conflict.json in {directory}, and remove the wrong one"
        )


class Ending(NamedTuple):
    """Result of one run when its training is over."""

    losses: np.ndarray
    blocks: np.ndarray
    diverged_at: int
    measures: dict[str, float]
    bytes_per_symbol: float
    narrower: Mapping[int, np.ndarray] = {}
    """Losses of the slices of nested weights, by their bits."""


def finish(run: Run, directory: epath.Path, ending: Ending, timing: dict[str, Any]) -> dict[str, Any]:
    """Writes and returns the result; a validation loss that is not finite is a divergence as well."""
    loss = loss_se = None
    if not ending.diverged_at and np.isfinite(ending.losses).all():
        loss, loss_se = loss_with_error(ending.losses, ending.blocks)
    metrics = {name: value if math.isfinite(value) else None for name, value in ending.measures.items()}
    row = result_row(run, loss, loss_se, ending.bytes_per_symbol) | weights_row(run, metrics)
    row["diverged_at_step"] = ending.diverged_at or None
    slices = []
    for width, losses in ending.narrower.items():
        told = (None, None) if loss is None else loss_with_error(losses, ending.blocks)
        slices.append(slice_row(run, width, *told, ending.bytes_per_symbol))
    new = result(run, "diverged" if loss is None else "ok", row, timing, metrics, slices=slices)
    if is_first():
        write_result(directory, new, run)
    return new


def _said(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """All that two results of one run have to agree in."""
    return result["status"], result["row"], result.get("slices")
