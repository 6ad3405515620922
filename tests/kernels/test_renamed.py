"""Names of before are read with a warning that says the new one; other names are refused as ever."""

from importlib import import_module

import pytest
from capscale.kernels.project import Projection

OLD = [
    ("capscale", "Then", "SparseQuantized"),
    ("capscale.formats", "Then", "SparseQuantized"),
    ("capscale.kernels.project", "Given", "ExternalScale"),
    ("capscale.representation", "Held", "ProjectedWeight"),
]


@pytest.mark.parametrize(("module", "old", "new"), OLD)
def test_an_old_name_is_read_and_says_the_new_one(module, old, new):
    found = import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{old} is now {module}\.{new}; ") as warned:
        assert getattr(found, old) is getattr(found, new)
    assert [w.filename for w in warned] == [__file__]
    assert old not in dir(found)


@pytest.mark.parametrize("module", sorted({module for module, _, _ in OLD}))
def test_names_that_never_were_are_refused(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Gone'"):
        import_module(module).Gone  # noqa: B018


@pytest.mark.parametrize(
    ("old", "new"), [("distance", "error_in_steps"), ("radius", "relative_magnitude"), ("slope", "dvalue_dscale")]
)
def test_what_a_projection_measures_is_read_by_its_old_name(old, new):
    found = Projection(None, **{new: 1.0})  # pyright: ignore[reportArgumentType]
    with pytest.warns(DeprecationWarning, match=rf"Projection\.{old} is now Projection\.{new}"):
        assert getattr(found, old) == 1.0
    assert set(found._fields).isdisjoint({"distance", "radius", "slope"})
