"""A policy as it stands on a decoder: the representation of every weight, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import TypeVar, cast

from capscale.contraction import Contraction
from capscale.coverage import Coverage, Found, cover
from capscale.errors import UserError
from capscale.formats.capabilities import Stateful, draws, learns
from capscale.models.config import ModelConfig, Projection
from capscale.policy import Frozen, Policy, first_match, frozen, rules_of
from capscale.representation import DENSE, DENSE_GRADIENTS, DENSE_OPERAND, Representation

Value = TypeVar("Value")
ATTENTION = ("query", "key", "value", "out")
TABLES = ("embedding", "head")
"""Parameters of shape (vocabulary, width): rows are compressed along the width, which the head's product sums over."""


@dataclass(frozen=True)
class Block:
    """Representations of the linear layers of one block, in the order of `ModelConfig.projections`."""

    projections: tuple[tuple[Projection, Representation], ...]

    def of(self, name: Projection) -> Representation:
        """Representation of one linear layer."""
        return dict(self.projections)[name]


@dataclass(frozen=True)
class Assigned:
    """Representation of every weight of a decoder that does not hold all of its layers in one.

    Attributes:
      layers: one a layer.
      embedding: of the table that ids are looked up in, and of the head as well where it is tied to it.
      head: of the head, where it is a parameter.
    """

    layers: tuple[Block, ...]
    embedding: Representation = DENSE
    head: Representation = DENSE

    def of(self, path: str) -> tuple[Representation, ...]:
        """Representations of a parameter by its path, `layers/mlp/up/kernel`: one a layer, or the one of a table."""
        if path in TABLES:
            return (self.embedding if path == "embedding" else self.head,)
        name = cast(Projection, path.split("/")[2])
        return tuple(block.of(name) for block in self.layers)

    @property
    def every(self) -> tuple[Representation, ...]:
        """Each representation among them once."""
        of_layers = [held for block in self.layers for _, held in block.projections]
        return tuple(dict.fromkeys([*of_layers, self.embedding, self.head]))

    def mapped(self, function: Callable[[Representation], Representation]) -> "Held":
        """The same of other representations."""
        blocks = [Block(tuple((name, function(held)) for name, held in block.projections)) for block in self.layers]
        return _simplest(Assigned(tuple(blocks), function(self.embedding), function(self.head)))

    @property
    def segments(self) -> tuple[tuple[int, int, Block], ...]:
        """Runs of layers that are held alike: the first of each, the one behind its last, and how."""
        return tuple((start, stop, block) for start, stop, block in runs(self.layers))


def representation_of(held: Representation | Block, name: Projection) -> Representation:
    """Representation of one linear layer of a block, all of which may share one."""
    return held if isinstance(held, Representation) else held.of(name)


def stored_of(held: Assigned) -> Representation | Block:
    """Representation that the parameters of a block are made by: its parametrizations, which all blocks share."""
    block = Block(
        tuple((name, Representation(parametrization=each.parametrization)) for name, each in held.layers[0].projections)
    )
    return DENSE if all(each == DENSE for _, each in block.projections) else block


Held = Representation | Assigned
"""Representations of a decoder's weights: one representation for all linear layers, or one for each."""


def runs(values: tuple[Value, ...]) -> list[tuple[int, int, Value]]:
    """Runs of equal values: where each starts, where it stops, and the value."""
    found, start = [], 0
    for value, same in groupby(values):
        stop = start + len(list(same))
        found.append((start, stop, value))
        start = stop
    return found


def table_of(held: Held, name: str) -> Representation:
    """Representation of the embedding or the head, which a lone one leaves dense."""
    return held.of(name)[0] if isinstance(held, Assigned) else DENSE


def every(held: Held) -> tuple[Representation, ...]:
    """Each representation that some weight is held in, once."""
    return (held,) if isinstance(held, Representation) else held.every


def mapped(held: Held, function: Callable[[Representation], Representation]) -> Held:
    """The same weights with `function` of every representation."""
    return function(held) if isinstance(held, Representation) else held.mapped(function)


def weights_alone(held: Held) -> Held:
    """Representations of matrices where all else stays dense: activations, gradients, keys, values, what is stored."""
    return mapped(held, lambda each: Representation(each.weights, hadamard=each.hadamard, signs=each.signs))


def stored_alone(held: Held) -> Held:
    """Representations of matrices with what they are stored as, where all else stays dense."""
    return mapped(
        held,
        lambda each: Representation(
            each.weights, hadamard=each.hadamard, signs=each.signs, parametrization=each.parametrization
        ),
    )


def inputs_alone(held: Held) -> Held:
    """Representations of inputs and of attention's cache, where weights and gradients stay dense."""

    def alone(each: Representation) -> Representation:
        if each.activations.is_dense and not each.caches_compressed:
            return DENSE
        return replace(each, weights=DENSE_OPERAND, gradients=DENSE_GRADIENTS, parametrization=None)

    return mapped(held, alone)


def combined(
    model: ModelConfig, first: Held, second: Held, function: Callable[[Representation, Representation], Representation]
) -> Held:
    """The same weights with `function` of what both have for each."""
    one, other = full(model, first), full(model, second)
    blocks = [
        Block(tuple((name, function(held, b.of(name))) for name, held in a.projections))
        for a, b in zip(one.layers, other.layers, strict=True)
    ]
    tables = function(one.embedding, other.embedding), function(one.head, other.head)
    return _simplest(Assigned(tuple(blocks), *tables))


def layers_mapped(model: ModelConfig, held: Held, function: Callable[[Representation], Representation]) -> Held:
    """The same weights with `function` of every linear layer's representation; embedding and head as they are."""
    before = full(model, held)
    blocks = [Block(tuple((name, function(each)) for name, each in block.projections)) for block in before.layers]
    return _simplest(replace(before, layers=tuple(blocks)))


def full(model: ModelConfig, held: Held) -> Assigned:
    """The same layer by layer, whether or not all agree."""
    if isinstance(held, Assigned):
        return held
    return Assigned((Block(tuple((name, held) for name in model.projections)),) * model.layers)


def assigned(model: ModelConfig, policy: Policy) -> Held:
    """Representations of a model by a policy: a lone one where all linear layers agree.

    Paths are `layers/3/attention/query/kernel`, `layers/3/mlp/up/kernel`, with layers counted from 0, and `embedding`
    and `head`, which stay dense unless a rule names them. Rules that start later count as started.

    Raises:
      UserError: a rule that matches no weight, a weight that no rule matches, a representation that a weight cannot
        have, layers of one kind with several parametrizations.
    """
    return _assigned(model, frozen(policy))


@lru_cache(1024)
def _assigned(model: ModelConfig, policy: Frozen) -> Held:
    if isinstance(policy, Representation):
        if (stored := policy.parametrization) is not None:
            for shape in model.projections.values():
                stored.arrays(shape)  # raises where it has no such matrix
        return policy
    found = {each.path: each.representation or DENSE for each in coverage(model, policy).parameters}
    blocks = [
        Block(tuple((name, found[kernel_path(name, layer)]) for name in model.projections))
        for layer in range(model.layers)
    ]
    _refuse_parametrizations(model, blocks, policy)
    return _simplest(Assigned(tuple(blocks), found["embedding"], found.get("head", DENSE)))


def coverage(model: ModelConfig, policy: Policy) -> Coverage:
    """Every weight of a model with its representation by a policy; raises as `assigned` does."""
    paths = [each.path for each in _found(model)]
    for rule in rules_of(policy) if model.tied_embeddings else ():
        if first_match([rule], "head") is not None and all(first_match([rule], path) is None for path in paths):
            raise UserError(
                f"rule {rule.pattern!r} names a head, and that of this model is its embedding (tied_embeddings); "
                "name 'embedding', which is then compressed for both"
            )
    return cover(_found(model), policy, lambda each, held: _refuse(each, held, model.tied_embeddings), in_training=True)


def _refuse_parametrizations(model: ModelConfig, blocks: list[Block], policy: Frozen) -> None:
    """Raises `UserError` for parametrizations that cannot be: their arrays are of all layers, and from the start."""
    for name, shape in model.projections.items():
        path, found = f"layers/*/{_module(name)}/kernel", {block.of(name).parametrization for block in blocks}
        if len(found) > 1:
            told = " and ".join(sorted(str(each or "dense") for each in found))
            raise UserError(f"{path}: layers store {told}, and share their arrays; name one for all layers")
        (own,) = found
        if own is None:
            continue
        if starts := [rule.starts for rule in rules_of(policy) if rule.starts]:
            raise UserError(
                f"{path}: {own} stores other numbers from the first step on, and a rule of the policy starts at "
                f"{starts[0]:g}; leave one of them out"
            )
        try:
            own.arrays(shape)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def _simplest(held: Assigned) -> Held:
    """The one representation of all linear layers, where they agree and tables are dense."""
    first = held.layers[0].projections[0][1]
    agree = all(each == first for block in held.layers for _, each in block.projections)
    return first if agree and held.embedding == held.head == DENSE else held


def kernel_path(name: Projection, layer: int) -> str:
    """Path of one layer's kernel, as patterns of a policy match it: `layers/3/mlp/up/kernel`."""
    return f"layers/{layer}/{_module(name)}/kernel"


def _module(name: Projection) -> str:
    return f"{'attention' if name in ATTENTION else 'mlp'}/{name}"


def _found(model: ModelConfig) -> list[Found]:
    """Every weight that a policy may speak of, and the gains and biases that it may not."""
    table, rows = (model.vocabulary, model.width), Contraction(-1)
    names = TABLES[:1] if model.tied_embeddings else TABLES
    found = [Found(name, table, rows, by_name=True) for name in names]
    for layer in range(model.layers):
        for name, shape in model.projections.items():
            found.append(Found(kernel_path(name, layer), shape, Contraction(0)))
            if name in model.biases:
                path = f"layers/{layer}/{_module(name)}/bias"
                found.append(Found(path, shape[1:], None, "a bias, which is added", product=False))
        gains = ["attention_norm", "mlp_norm"]
        gains += ["attention/query_norm", "attention/key_norm"] if model.normalised != "none" else []
        paths = (f"layers/{layer}/{name}/gain" for name in gains)
        found += [Found(path, (model.width,), None, "a gain of a norm", product=False) for path in paths]
    return [*found, Found("final_norm/gain", (model.width,), None, "a gain of a norm", product=False)]


def _refuse(each: Found, held: Representation, tied: bool) -> None:
    if each.path not in TABLES:
        return
    if held.parametrization is not None:
        raise UserError(
            f"{each.path}: {held.parametrization} is of linear layers, and this table is looked up as well; leave it "
            "dense, or hold it in a format"
        )
    weights, activations = held.weights.format, held.activations.format
    for format in (weights, activations):
        if learns(format) or isinstance(format, Stateful):
            raise UserError(
                f"{each.path}: {format!r} learns numbers or keeps a state, for which only layers have a place; "
                "hold it in a format that only rounds"
            )
    if held.caches_compressed:
        raise UserError(f"{each.path}: keys and values are of attention alone; leave them dense here")
    if not held.gradients.is_dense:
        raise UserError(
            f"{each.path}: gradients are compressed in layers alone; leave those of {held.gradients!r} dense"
        )
    if draws(activations):
        raise UserError(f"{each.path}: {activations!r} draws noise, which only inputs of layers do; leave them dense")
    if each.path == "embedding" and not tied and not held.activations.is_dense:
        raise UserError("embedding: ids are looked up in it, and have no format; leave its activations dense")
    if each.path == "embedding" and held.rotates_both:
        raise UserError(
            "embedding: it is looked up as well as multiplied, and would stay rotated for the product alone; use "
            "hadamard=None, or compress its weights alone"
        )
