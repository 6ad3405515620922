"""Command that describes a compressed model."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from capscale.cli.selecting import PolicyOption, rule_texts
from capscale.errors import UserError
from capscale.models.ladder import LADDERS

if TYPE_CHECKING:
    from capscale.models.config import ModelConfig
    from capscale.policy import Policy
    from capscale.representation import Representation

_NAMES = [list(ladder.sizes) for ladder in LADDERS.values()]
SIZES = ", ".join(f"{names[0]} .. {names[-1]}" for names in _NAMES)
"""First and last of every ladder."""


@dataclass
class Describe:
    """List a model's parameters: shape, format, axis, group, estimator, bits, bytes; with totals and N.

    Examples:
      capscale describe --model 30M --weights int4 --activations int8 --hadamard 128
      capscale describe --model olmo2-30M --weights 2:4 --json
      capscale describe --model 30M --recipe quartet
      capscale describe --model 30M --policy 'layers/(0|5)/.*=dense' 'head=int8' '.*=int4 x int8 hadamard 128'
      capscale describe --model 30M --weights int4 --gradients "dx: int8 x dense, dw: int8 x int8 given H16 signs drawn"
    """

    model: Annotated[str, tyro.conf.arg(help=f"Name of a size: {SIZES}.")]
    weights: str = "dense"
    """Format of the linear layers' weights: a name that `capscale gmse` lists. Or a parametrization: shared4,
    hashed0.25, lowrank0.25, lowrank-r8, kronecker0.25, monarch4, nola0.25-r8."""
    activations: str = "dense"
    """Format of the linear layers' inputs, per token."""
    hadamard: int | None = None
    """Largest block of the Hadamard rotation: a power of two, or one times 12, 20, 28 or 36."""
    signs: int | None = None
    """Seed of random signs ahead of the rotation."""
    gradients: str | None = None
    """How both backward products hold their operands: a recipe's name, or both products; `capscale.gradient_names`."""
    cache: str = "dense"
    """Format of attention's keys and values, each head and token by itself; or both, 'keys int4 values int2'."""
    context: int | None = None
    """Tokens of the cache whose bytes are told; the model's own if not given."""
    recipe: str | None = None
    """A published recipe for all three products (nvfp4-pretraining, quartet, ...), in place of the options above."""
    policy: PolicyOption = ()
    """In place of the options above, rules PATTERN=REPRESENTATION, or files with one a line, of which the first decides
    whose pattern matches the whole path of a weight, such as layers/3/mlp/up/kernel: its format and, behind x, that of
    its inputs; hadamard BLOCK; signs SEED; cache FORMATS; gradients HOW; or a recipe. Kernels are then listed by runs
    of layers that are held alike."""
    json: bool = False
    """Print JSON: parameters, totals, N."""

    def __call__(self) -> int:
        """Prints the table that was asked for."""
        from capscale.cache_names import cache_name
        from capscale.cli.describe_layers import show_layers, told
        from capscale.estimator_names import estimator_name
        from capscale.formats.catalog import label
        from capscale.gradient_names import gradients_lines, gradients_name
        from capscale.models.coverage import cache_bytes, parameters
        from capscale.models.ladder import find_size

        if self.context is not None and self.context < 1:
            raise UserError(f"--context {self.context}: a cache holds 1 token at least")
        if self.policy:
            if other := [*self._said(), *(["recipe"] if self.recipe else [])]:
                raise UserError(f"--policy says all operands; leave out --{' and --'.join(other)}")
            return show_layers(self.model, rule_texts(self.policy), self.context, as_json=self.json)
        model, representation = find_size(self.model), self._representation()
        leaves = parameters(model, representation)
        estimator = estimator_name(representation.weights.backward())
        totals = {
            "parameters": sum(leaf.size for leaf in leaves),
            "non_embedding_parameters": sum(leaf.size for leaf in leaves if leaf.in_n),
            **stored_in(model, representation),
            **slices_in(model, representation),
            "bytes": sum(leaf.bytes for leaf in leaves),
            "dense_bytes": sum(leaf.size for leaf in leaves) * 2,
            "activations": self.activations if self.recipe is None else label(representation.activations.format),
            "activation_bits": representation.activations.format.bits,
            "activations_estimator": estimator_name(representation.activations.backward()),
            "hadamard": representation.rotation,
            "gradients": gradients_name(representation.gradients),
            "backward": gradients_lines(representation.gradients),
            "cache": cache_name(representation),
            "context": model.context if self.context is None else self.context,
            "cache_bytes_per_token": cache_bytes(model, representation),
        }
        if self.json:
            rows = [
                told(leaf)
                | {"estimator": None if leaf.axis is None else estimator, "size": leaf.size, "bytes": leaf.bytes}
                for leaf in leaves
            ]
            print(json.dumps({"model": self.model, **totals, "leaves": rows}, indent=1))
            return 0
        _print(leaves, estimator, totals)
        return 0

    def _said(self) -> list[str]:
        """Options of single operands that were given."""
        names = ("weights", "activations", "hadamard", "signs", "gradients", "cache")
        given = {name: getattr(self, name) for name in names}
        return [name for name, value in given.items() if value not in (None, "dense")]

    def _representation(self) -> "Representation":
        """Representation that the options say."""
        from capscale.cache_names import find_cache
        from capscale.gradient_names import find_gradients
        from capscale.policy_names import find_weights
        from capscale.recipes import find_recipe
        from capscale.representation import Representation, operand

        if self.recipe is None:
            activations = operand(self.activations, per_token=True)
            gradients = find_gradients(self.gradients or "dense")
            cache = find_cache(self.cache)
            weights, stored = find_weights(self.weights)
            rotation = self.hadamard, self.signs
            return Representation(weights, activations, *rotation, gradients, *cache, parametrization=stored)
        if other := self._said():
            raise UserError(f"--recipe {self.recipe} says all operands; leave out --{' and --'.join(other)}")
        return find_recipe(self.recipe)


def stored_in(model: "ModelConfig", policy: "Policy") -> dict[str, int]:
    """Numbers that are stored in place of N, where some are."""
    from capscale.models.parametrized import counted

    found = counted(model, policy)
    return {"stored_numbers": model.non_embedding_parameters - found.entries + found.stored} if found.names else {}


def slices_in(model: "ModelConfig", policy: "Policy") -> dict[str, dict[str, float]]:
    """Bytes of the parameters at every width of nested weights, where some are."""
    from capscale.models.assigned import assigned
    from capscale.models.coverage import parameters
    from capscale.models.slices import at_width, nested_in
    from capscale.policy import frozen

    nested = nested_in(assigned(model, policy))
    if nested is None or nested.at is not None:
        return {}
    found = {width: parameters(model, at_width(frozen(policy), width)) for width in nested.widths}
    return {"slices": {str(width): sum(leaf.bytes for leaf in leaves) for width, leaves in found.items()}}


def slices_told(totals: dict) -> list[str]:
    """The line of a table about nested weights."""
    slices = totals.get("slices", {})
    told = ", ".join(f"{bytes:,.0f} bytes at {width} bits" for width, bytes in slices.items())
    return [f"models cut out of the nested weights: {told}"] if told else []


def _print(leaves: list, estimator: str, totals: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "shape", "format"):
        table.add_column(column)
    for column in ("axis", "group", "estimator", "bits", "values", "bytes"):
        table.add_column(column, justify="right")
    for leaf in leaves:
        shape = " x ".join(map(str, leaf.shape))
        how = ("", "", "") if leaf.axis is None else (str(leaf.axis), f"{leaf.group:,}", estimator)
        numbers = f"{leaf.bits:.4g}", f"{leaf.size:,}", f"{leaf.bytes:,.0f}"
        table.add_row(leaf.path, shape, leaf.format, *how, *numbers)
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)  # a narrow terminal wraps lines; numbers are never cut
    console.print(table)
    stored, along = "stored_numbers" in totals, "weights are compressed along their axis `in`"
    console.print(
        f"parameters {totals['parameters']:,}; non-embedding N = {totals['non_embedding_parameters']:,}"
        + (f", of which {totals['stored_numbers']:,} numbers are stored" if "stored_numbers" in totals else "")
        + "\n"
        + f"stored in {totals['bytes']:,.0f} bytes (all bf16: {totals['dense_bytes']:,})\n"
        + "".join(f"{line}\n" for line in slices_told(totals))
        + ("weights are made of other numbers, which are what is stored and trained" if stored else along)
        + f"; Hadamard block: {totals['hadamard'] or 'none'}\n"
        f"activations of linear layers: {totals['activations']}, {totals['activation_bits']:.4g} bits per value, "
        f"estimator {totals['activations_estimator']}\n"
        f"gradients: {totals['gradients']}"
        + "".join(f"\n  {line}" for line in totals["backward"])
        + f"\ncache of keys and values: {totals['cache']}, {totals['cache_bytes_per_token']:,.0f} bytes a token, "
        f"{totals['cache_bytes_per_token'] * totals['context']:,.0f} of {totals['context']:,} tokens",
        highlight=False,
    )
