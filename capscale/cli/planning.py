"""Commands that use a fitted law: predict, plan, bench."""

import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from capscale.cli.fitting import Fitting, numbers_of, parse_columns, parse_numbers, said_of, words_about
from capscale.cli.planning_cache import CacheOptions
from capscale.errors import UserError

__all__ = ["Plan", "Predict"]


@dataclass(frozen=True)
class Predict:
    """Capacity and loss of a format, trained or not, with an interval.

    Examples:
      capscale predict runs/demo --weights int3
      capscale predict runs.csv --weights int4 --activations int8 --N 1e9 --D 2e10 --json
    """

    table: tyro.conf.Positional[str]
    """Sweep directory or table of runs."""
    weights: str = "dense"
    """Catalog name."""
    activations: str = "dense"
    """Catalog name."""
    N: float | None = None
    """Non-embedding parameters. None: the largest of the runs."""
    D: float | None = None
    """Training tokens. None: the most of the runs."""
    weights_gmse: float | None = None
    """For weights outside the catalog."""
    activations_gmse: float | None = None
    """For activations outside the catalog."""
    column: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Another column that the law reads, such as epochs=4; given once for each."""
    fitting: tyro.conf.OmitArgPrefixes[Fitting] = field(default_factory=Fitting)
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits, predicts and prints."""
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.predict import predict, target
        from capscale.analysis.sentences import predictions
        from capscale.analysis.sentences.rule import texts
        from capscale.cli.analysis_tables import grid, sentences, span, stated

        ensemble, inspected = self.fitting.gathered(self.table)
        fit = ensemble.best
        nan = float("nan")
        row = target(
            self.weights,
            self.activations,
            N=float(fit.table.column("N").max()) if self.N is None else self.N,
            D=float(fit.table.column("D").max()) if self.D is None else self.D,
            weights_gmse=nan if self.weights_gmse is None else self.weights_gmse,
            activations_gmse=nan if self.activations_gmse is None else self.activations_gmse,
            columns=parse_columns(self.column),
            runs=ensemble.table,
        )
        if not row.is_dense and max(row.weights_gmse, row.activations_gmse) == 0:
            raise UserError(f"{row.curve}: GMSE is zero; nothing is compressed")
        found = predict(ensemble, row, self.fitting.draws)
        content = {
            "weights": row.weights,
            "activations": row.activations,
            "N": row.N,
            "D": row.D,
            "weights_gmse": row.weights_gmse,
            "activations_gmse": row.activations_gmse,
            "rho": found.rho._asdict(),
            "loss": found.loss._asdict(),
            "dense_equivalent": found.dense_equivalent._asdict(),
            "stated": found.stated,
            "beyond": dict(zip(("N", "D"), found.beyond, strict=True)),
            "notes": list(found.notes),
            "fit": said_of(inspected),
            "ensemble": numbers_of(ensemble),
        }
        if self.json:
            print(json.dumps(json_ready(content), indent=1))
            return 0
        rows = [
            ("rho", f"{found.rho.estimate:.3f}", f"{found.rho.low:.3f} – {found.rho.high:.3f}"),
            ("loss, nats per token", f"{found.loss.estimate:.4f}", stated(found.loss, ".4f")),
            ("dense-equivalent size", f"{found.dense_equivalent.estimate:.4g}", span(found.dense_equivalent)),
        ]
        grid(f"{row.curve} at N = {row.N:.4g}, D = {row.D:.4g}", ("", "predicted", "95 %"), rows)
        sentences("To be known", [*words_about(inspected), *texts(predictions.RULES, ensemble), *found.notes])
        sentences("Rows", [f"{r.row}: {r.what}" for r in fit.table.remarks])
        return 0


@dataclass(frozen=True)
class Plan:
    """Which format, size and number of tokens win under a budget, and what to train next to know it better.

    With --rounded: how far to train a dense model whose weights will only be rounded after, within --memory of the
    rounded weights or --flops. More text lowers the loss and makes rounding dearer; what rounding costs is fitted to
    tables of `capscale quantize --csv`, as `capscale post-training` does.

    Examples:
      capscale plan runs/demo --memory 10e3 --tokens 2e6
      capscale plan runs.csv --flops 1e20 --speed int4=3 int8=2
      capscale plan runs.csv --loss 2.8 --tokens-per-parameter 100 --formats dense int8 int4 2:4
      capscale plan runs.csv --memory 2e10 --tokens 1e12 --context 8192 --batch 8 --keys int8 --values int4
      capscale plan runs/post --rounded rounded.csv --memory 2e3 --formats int4 int3 int2
    """

    table: tyro.conf.Positional[str]
    """Sweep directory or table of runs."""
    memory: float | None = None
    """Bytes of the weights, and of attention's cache where --context says its tokens."""
    flops: float | None = None
    """Training FLOPs, 6 N D."""
    loss: float | None = None
    """Loss to reach, in nats per token, with the least memory."""
    tokens: float | None = None
    """Training tokens."""
    tokens_per_parameter: float | None = None
    """Training tokens per parameter."""
    formats: tuple[str, ...] = ("dense", "int8", "int4", "int3", "int2", "2:4", "top50")
    """Weight formats to choose from; WEIGHTS/ACTIVATIONS compresses both."""
    speed: tuple[str, ...] = ()
    """How much faster a weight format trains than dense, NAME=FACTOR."""
    rounded: tuple[str, ...] = ()
    """Tables of `capscale quantize --csv`: the formats are rounded to after dense training. The law is that of dense
    runs then, unless --form names another."""
    cached: tyro.conf.OmitArgPrefixes[CacheOptions] = field(default_factory=CacheOptions)
    fitting: tyro.conf.OmitArgPrefixes[Fitting] = field(default_factory=Fitting)
    json: bool = False
    """Print JSON and nothing else."""

    def __call__(self) -> int:
        """Fits, plans and prints."""
        if self.rounded:
            from capscale.cli.planning_rounded import plan_rounded

            return plan_rounded(self)
        from capscale.analysis.numbers import json_ready
        from capscale.analysis.planner import Budget, plan
        from capscale.analysis.sentences import predictions
        from capscale.analysis.sentences.rule import texts
        from capscale.cli.analysis_tables import grid, sentences, stated

        budget = Budget(self.memory, self.flops, self.loss, self.tokens, self.tokens_per_parameter)
        speed = dict(parse_numbers(self.speed, ()).fixed)
        if any(not 0 < factor < float("inf") for factor in speed.values()):
            raise UserError(f"--speed {' '.join(self.speed)}: factors must be positive and finite")
        cache = self.cached.cache()
        ensemble, inspected = self.fitting.gathered(self.table)
        pairs = [(w, a or "dense") for w, _, a in (name.partition("/") for name in self.formats)]
        found = plan(ensemble, budget, pairs, speed, self.fitting.draws, cache=cache)
        options = [
            {
                "format": o.prediction.row.curve,
                "N": o.prediction.row.N,
                "D": o.prediction.row.D,
                "memory_bytes": o.memory,
                "cache_bytes": o.cache,
                "flops": o.flops,
                "loss": o.prediction.loss._asdict(),
                "rho": o.prediction.rho.estimate,
                "behind": o.behind,
                "told_apart": o.told_apart,
                "size": o.size and o.size._asdict(),
                "tokens_per_parameter": o.ratio and o.ratio._asdict(),
                "notes": list(o.prediction.notes),
            }
            for o in found.options
        ]
        following = found.next_run and {
            "format": found.next_run.row.curve,
            "N": found.next_run.row.N,
            "D": found.next_run.row.D,
            "deviation_before": found.next_run.deviation_before,
            "deviation_after": found.next_run.deviation_after,
        }
        if self.json:
            content = {"options": options, "next_run": following, "fit": said_of(inspected)}
            content |= {"ensemble": numbers_of(ensemble)}
            print(json.dumps(json_ready(content), indent=1))
            return 0
        behind = "memory / winner's" if self.loss is not None else "loss behind"
        rows = [
            (
                o["format"],
                f"{o['N']:.3g}",
                f"{o['D']:.3g}",
                f"{o['memory_bytes']:.3g}",
                *([] if cache is None else [f"{o['cache_bytes']:.3g}"]),
                f"{o['loss']['estimate']:.4f}",
                stated(found.options[i].prediction.loss, ".3f"),
                f"{o['behind']:.4f}",
                "" if i == 0 else {True: "yes", False: "no", None: "not known"}[o["told_apart"]],
            )
            for i, o in enumerate(options)
        ]
        sizes = ("bytes",) if cache is None else ("bytes", "of them cache")
        grid("Best first", ("format", "N", "D", *sizes, "loss", "95 %", behind, "told apart"), rows)
        sized = [(o.prediction.row.curve, o.size, o.ratio) for o in found.options if o.size and o.ratio]
        if sized:
            grid(
                "Size of least loss, and tokens per parameter there",
                ("format", "N", "95 %", "D/N", "95 %"),
                [
                    (c, f"{s.estimate:.3g}", stated(s, ".3g"), f"{r.estimate:.3g}", stated(r, ".3g"))
                    for c, s, r in sized
                ],
            )
        lines = [
            *words_about(inspected),
            *texts(predictions.RULES, ensemble),
            *dict.fromkeys(n for o in found.options for n in o.prediction.notes),
            *([] if cache is None else self.cached.said(cache, [o["N"] for o in options])),
        ]
        if found.next_run is not None:
            r = found.next_run
            lines.append(
                f"next run: {r.row.curve} at N = {r.row.N:.3g}, D = {r.row.D:.3g} takes the error of the first two "
                f"formats' difference from {r.deviation_before:.2g} to {r.deviation_after:.2g} nats, if the law holds"
            )
        sentences("To be known", lines)
        sentences("Rows", [f"{r.row}: {r.what}" for r in ensemble.table.remarks])
        return 0
