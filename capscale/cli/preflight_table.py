"""The table that `capscale preflight` prints: a row a program, in JSON or as a line."""

from typing import TYPE_CHECKING, Any

from capscale.cli.describe_layers import by_layer

if TYPE_CHECKING:
    from capscale.sweep.choosing import Checked
    from capscale.sweep.slices import Slice

HEAD = f"{'':<36} " + (
    "GB/device  compile  ms/step  MFU  GB sent    bound by   runs      steps   FLOPs  hours each  device-hours"
)
"""Names of the columns of its lines."""
HELD = ("estimator", "parametrization", "activations", "cache", "gradients")
"""Fields of a parameter, one of which is said where anything of it is compressed."""


def row_of(checked: "Checked", slice_: "Slice", given: float | None = None) -> dict[str, Any]:
    """A program and the runs that have it, as `--json` prints them; `given`: an MFU in place of the estimate."""
    from capscale.models.coverage import parameters
    from capscale.policy_names import policy_name
    from capscale.representation import Representation
    from capscale.sweep.display import run_name
    from capscale.sweep.preflight import device_hours

    compiled, found = checked.compiled, checked.compiled.estimate
    estimated = None if found is None else found.mfu(checked.runs[0], slice_)
    mfu = estimated if given is None else given
    hours = [None if mfu is None else device_hours(run, slice_, mfu) for run in checked.runs]
    first = checked.runs[0]
    policy = None if isinstance(first.representation, Representation) else policy_name(first.representation)
    layers = [] if policy is None else map(by_layer, parameters(first.model, first.representation))
    return {
        "name": run_name(first),
        "policy": policy,
        "layers": [row for row in layers if any(row[name] for name in HELD)],
        "setting": str(checked.setting),
        "fits": compiled.fits,
        "bytes_per_device": compiled.bytes,
        "bytes_there": compiled.limit,
        "compile_s": round(compiled.seconds, 1),
        "refused": compiled.reason,
        "products": dict(compiled.products),
        "estimate": None
        if found is None
        else {
            "step_s": found.step,
            "mfu": estimated,
            "compute_s": found.compute,
            "kernels_s": found.kernels,
            "wire_s": found.beside + found.alone + found.between,
            "between_slices_s": found.between,
            "wire_alone_s": found.alone,
            "bytes_sent_per_device": found.sent,
            "bytes_sent_by_kind": dict(found.kinds),
            "seconds_by_unit": dict(found.units),
            "bottleneck": found.bottleneck,
            "compute_by": "products and bytes" if found.quick else "cycles",
            "kernels_by": "schedule" if found.by_schedule else "bytes",
        },
        "runs": [
            {
                "run_id": run.run_id,
                "steps": run.steps,
                "flops": run.step_flops * run.steps,
                "hours": None if of_run is None else of_run / slice_.chips,
                "device_hours": of_run,
            }
            for run, of_run in zip(checked.runs, hours, strict=True)
        ],
    }


def line(row: dict[str, Any], chosen: bool) -> str:
    """The same to be read below `HEAD`; `chosen`: with the setting, where each program has its own."""
    from capscale.representation import takes_codes

    runs = row["runs"]
    size = f"{row['bytes_per_device'] / 1e9:.2f}" if row["bytes_per_device"] else "?"
    setting = f"  {row['setting']}" if chosen else ""
    verdict = setting if row["fits"] else f"  DOES NOT FIT in {row['bytes_there'] / 1e9:.2f} GB"
    found = row["estimate"]
    step = (
        f"{'?':>8} {'?':>4} {'?':>8} {'?':>11}"
        if found is None
        else f"{1e3 * found['step_s']:>8.3g} {found['mfu']:>4.0%} {found['bytes_sent_per_device'] / 1e9:>8.3g} "
        f"{found['bottleneck']:>11}"
    )
    layers = [
        f"\n  {each['path']}: {' x '.join(filter(None, (each['format'], each['activations'])))}"
        + "".join(f", {name} {each[name]}" for name in ("hadamard", "cache", "gradients") if each[name])
        + f", {each['bits']:.4g} bits"
        for each in row["layers"]
    ]
    counts = [f"{count} of {kind}" for kind, count in row["products"].items() if count]
    of_codes = [f"\n  products: {', '.join(counts)}"] if takes_codes() else []
    return (
        f"{row['name']:<36} {size:>9} {row['compile_s']:>6.1f} s {step} {len(runs):>6} "
        f"{_range(runs, 'steps', ',.0f'):>10} {sum(run['flops'] for run in runs):>7.1e} "
        f"{_range(runs, 'hours', '.3g'):>11} {_total(runs):>13}{verdict}"
        f"{''.join([*layers, *of_codes])}"
    )


def _range(runs: list[dict[str, Any]], field: str, form: str) -> str:
    known = [run[field] for run in runs if run[field] is not None]
    values = sorted({format(value, form) for value in known}, key=lambda text: float(text.replace(",", "")))
    if not values:
        return "?"
    return values[0] if len(values) == 1 else f"{values[0]}-{values[-1]}"


def _total(runs: list[dict[str, Any]]) -> str:
    hours = [run["device_hours"] for run in runs]
    return "?" if None in hours else f"{sum(hours):,.1f}"
