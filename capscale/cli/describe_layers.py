"""The describe command's table of a policy: every run of layers that are held alike, and means over all."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capscale.models.coverage import Parameter

NEAREST = ", of a parametrization the error of the nearest such matrix, which training does not go to"


def show_layers(size: str, rules: Sequence[str], context: int | None, *, as_json: bool) -> int:
    """Prints the table of a policy on a model of a size; of the cache, the bytes of `context` tokens."""
    from capscale.cli.describe import slices_in, stored_in
    from capscale.formats.mse import effective_bits
    from capscale.models.assigned import assigned
    from capscale.models.coverage import cache_bytes, parameters
    from capscale.models.ladder import find_size
    from capscale.models.mixture import mixture_of
    from capscale.policy_names import find_policy, policy_name

    model = find_size(size)
    policy = find_policy(rules)
    leaves, mixture = parameters(model, policy), mixture_of(model, policy)
    matrices = [leaf for leaf in leaves if leaf.in_n and leaf.path.endswith("kernel")]
    totals = {
        "policy": policy_name(policy),
        "parameters": sum(leaf.size for leaf in leaves),
        "non_embedding_parameters": sum(leaf.size for leaf in leaves if leaf.in_n),
        "bytes": sum(leaf.bytes for leaf in leaves),
        "dense_bytes": sum(leaf.size for leaf in leaves) * 2,
        "layer_bits": sum(8 * leaf.bytes for leaf in matrices) / sum(leaf.size for leaf in matrices),
        **stored_in(model, policy),
        **slices_in(model, policy),
        "weights_gmse": mixture.weights_gmse if math.isfinite(mixture.weights_gmse) else None,
        "activations_gmse": mixture.activations_gmse,
        "weights_effective_bits": effective_bits(mixture.weights_gmse) if mixture.weights_gmse > 0 else None,
        "activation_bits": mixture.activations_bits,
        "context": model.context if context is None else context,
        "cache_bytes_per_token": cache_bytes(model, assigned(model, policy)),
    }
    rows = [by_layer(leaf) for leaf in leaves]
    if as_json:
        print(json.dumps({"model": size, **totals, "leaves": rows}, indent=1))
        return 0
    _print_layers(rows, totals)
    return 0


def told(leaf: "Parameter") -> dict[str, Any]:
    """The fields of a parameter that JSON holds."""
    fields = leaf._asdict()
    del fields["held"]
    return fields


def by_layer(leaf: "Parameter") -> dict[str, Any]:
    """A parameter under a policy, with what its inputs are held in and the errors of both."""
    from capscale.estimator_names import estimator_name
    from capscale.gradient_names import gradients_name
    from capscale.models.mixture import error_and_bits, format_gmse

    held, rotated = leaf.held, leaf.held.hadamard is not None
    compressed, inputs = leaf.axis is not None, not held.activations.is_dense
    stored, error = held.parametrization, None
    if stored is not None:
        error = stored.gmse((leaf.shape[-2], leaf.shape[-1]))
    elif compressed:
        rows, last = leaf.shape[-2], leaf.shape[-1]
        along_last = leaf.axis == len(leaf.shape) - 1  # of a table, whose inputs stand last
        error = error_and_bits(held.weights.format, (last, rows) if along_last else (rows, last))[0]
    return told(leaf) | {
        "size": leaf.size,
        "bytes": leaf.bytes,
        "estimator": estimator_name(held.weights.backward()) if compressed else None,
        "parametrization": None if stored is None else held.weights_label,
        "gmse": error,
        "activations": held.activations.name(rotated) if inputs else None,
        "activations_gmse": format_gmse(held.activations.format) if inputs else None,
        "hadamard": held.rotation,
        "gradients": None if held.gradients.is_dense else gradients_name(held.gradients),
        "cache": _cached(leaf),
    }


def _cached(leaf: "Parameter") -> str | None:
    """Format of the keys or the values that a matrix makes; None where they are dense, and of other matrices."""
    side = {"key": leaf.held.keys, "value": leaf.held.values}.get(leaf.path.split("/")[-2] if "/" in leaf.path else "")
    return None if side is None or side.is_dense else side.name(leaf.held.hadamard is not None)


def _print_layers(rows: list[dict[str, Any]], totals: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from capscale.cli.describe import slices_told

    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "shape", "format"):
        table.add_column(column)
    for column in (
        "estimator",
        "bits",
        "GMSE",
        "values",
        "bytes",
        "activations",
        "GMSE",
        "hadamard",
        "gradients",
        "cache",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        errors = ["" if row[name] is None else f"{row[name]:.4g}" for name in ("gmse", "activations_gmse")]
        numbers = f"{row['bits']:.4g}", errors[0], f"{row['size']:,}", f"{row['bytes']:,.0f}"
        rest = (
            row["activations"] or "",
            errors[1],
            str(row["hadamard"] or ""),
            row["gradients"] or "",
            row["cache"] or "",
        )
        shape = " x ".join(map(str, row["shape"]))
        table.add_row(row["path"], shape, row["format"], row["estimator"] or "", *numbers, *map(_plain, rest))
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)
    lines = [
        f"policy: {totals['policy']}",
        f"parameters {totals['parameters']:,}; non-embedding N = {totals['non_embedding_parameters']:,}"
        + (f", of which {totals['stored_numbers']:,} numbers are stored" if "stored_numbers" in totals else ""),
        f"stored in {totals['bytes']:,.0f} bytes (all bf16: {totals['dense_bytes']:,}); matrices of layers at "
        f"{totals['layer_bits']:.4g} bits per value, scales, masks and indices included",
        *slices_told(totals),
        "mean GMSE over the matrices of layers, each weight counting once: "
        f"{_known(totals['weights_gmse'])} of weights, {totals['activations_gmse']:.4g} of their inputs"
        + ("" if (bits := totals["weights_effective_bits"]) is None else f"; effective bits {bits:.3g}"),
        f"cache of keys and values: {totals['cache_bytes_per_token']:,.0f} bytes a token, "
        f"{totals['cache_bytes_per_token'] * totals['context']:,.0f} of {totals['context']:,} tokens",
        "bits and bytes are exact, and each GMSE is that of `capscale gmse`"
        + (NEAREST if any(row["parametrization"] for row in rows) else "")
        + "; that one mean tells what a model loses is "
        "an assumption: no law of GMSE is fitted to runs under a policy, and each policy has a capacity of its own",
    ]
    console.print("\n".join(lines), highlight=False, markup=False)


def _known(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.4g}"


def _plain(cell: str) -> str:
    return cell.replace("[", r"\[")
