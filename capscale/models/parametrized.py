"""Parameters of which some kernels are stored as other numbers: the matrices that these make, and what they count."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from capscale.models.assigned import Held, assigned, every, stored_alone
from capscale.models.config import ModelConfig, Projection
from capscale.models.projected import KERNEL
from capscale.parametrizations import Parametrization
from capscale.policy import Policy
from capscale.representation import Representation


def of_projections(model: ModelConfig, held: Held) -> dict[Projection, Parametrization | None]:
    """Parametrization of every linear layer of a block, the same in all blocks."""
    if isinstance(held, Representation):
        return dict.fromkeys(model.projections, held.parametrization)
    return {name: each.parametrization for name, each in held.layers[0].projections}


def with_matrices(params: Any, model: ModelConfig, held: Held) -> Any:
    """`params` with the matrix in place of the stored numbers of every kernel that has such.

    Differentiated, it is the transpose that takes gradients of matrices to gradients of stored numbers. Without a
    parametrization `params` come back as they are.
    """
    if all(each.parametrization is None for each in every(held)):
        return params
    own, layers = of_projections(model, held), dict(params["layers"])
    for part in ("attention", "mlp"):
        layers[part] = {name: _with_matrix(module, model, own, name) for name, module in layers[part].items()}
    return {**params, "layers": layers}


def _with_matrix(module: Mapping[str, Any], model: ModelConfig, own: Mapping[Any, Any], name: Any) -> Any:
    parametrization: Parametrization | None = own.get(name)
    if parametrization is None:
        return module
    shape = model.projections[name]
    return {**module, KERNEL: jax.vmap(lambda stored: parametrization.value(stored, shape))(module[KERNEL])}


class Stored(NamedTuple):
    """Parameters of which some kernels are stored as other numbers, beside the matrices that these make.

    Attributes:
      params: with a tree of stored arrays in place of such a kernel.
      held: representations of the weights, parametrizations among them.
    """

    params: Any
    held: Held

    @property
    def names(self) -> str:
        """Names of the parametrizations, with commas between."""
        return ", ".join(dict.fromkeys(str(each.parametrization) for each in every(self.held) if each.parametrization))

    def entries(self, model: ModelConfig) -> int:
        """Entries of all matrices that are made of other numbers."""
        own = of_projections(model, self.held)
        return model.layers * sum(a * b for name, (a, b) in model.projections.items() if own[name] is not None)


def stored(params: Any, held: Held) -> Stored | None:
    """Numbers that a model stores, where some kernels are stored as others than their entries."""
    return None if all(each.parametrization is None for each in every(held)) else Stored(params, stored_alone(held))


class Counted(NamedTuple):
    """Numbers that the linear layers of a model store.

    Attributes:
      names: of its parametrizations, each once.
      entries: of their matrices.
      stored: numbers in place of them.
      gmse: mean of the errors of the nearest matrices, each entry counting once, 0 for dense ones; None where one is
        not known.
    """

    names: tuple[str, ...]
    entries: int
    stored: int
    gmse: float | None


def counted(model: ModelConfig, policy: Policy) -> Counted:
    """Numbers that a model's linear layers store, by its policy."""
    own = of_projections(model, assigned(model, policy))
    entries, stored, errors = 0, 0, []
    for name, shape in model.projections.items():
        held, size = own[name], shape[0] * shape[1]
        entries += size
        stored += size if held is None else held.stored_numbers(shape)
        errors.append((0.0 if held is None else held.gmse(shape), size))
    known = [error * size for error, size in errors if error is not None]
    names = tuple(dict.fromkeys(str(each) for each in own.values() if each is not None))
    gmse = sum(known) / entries if len(known) == len(errors) else None
    return Counted(names, model.layers * entries, model.layers * stored, gmse)
