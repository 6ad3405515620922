"""Runs of an experiment by size and seed, and starts with other ones on one directory."""

import json
from dataclasses import replace

import pytest
from etils import epath
from support import tiny

from capscale.errors import UserError
from capscale.models.ladder import NANO, Ladder
from capscale.policy_names import find_policy
from capscale.sweep.directory import open_directory
from capscale.sweep.plan import Sweep, plan
from capscale.sweep.selection import WHOLE, Selection
from capscale.sweep.status import read_status

DATA = tiny.corpus().id
SIZES = ("nano-8", "nano-12")


def demo(**selected):
    return plan("capacity_demo", "nano", DATA, Selection(**selected))


def ids(sweep):
    return [run.run_id for run in sweep.runs]


def open_(sweep, out):
    open_directory(sweep, epath.Path(out), "capscale sweep", {})
    return {path.name for path in out.glob("*.json")}


def listed(out):
    return [status.run_id for status in read_status(epath.Path(out))]


def test_sizes_and_own_seeds_keep_their_ids_and_order():
    whole = plan("capacity_demo", "nano", DATA)
    some = demo(sizes=SIZES)
    assert ids(some) == [run.run_id for run in whole.runs if run.size in SIZES]
    assert 0 < len(some.runs) < len(whole.runs)
    first = demo(seeds=(0,))
    assert ids(first) == [run.run_id for run in whole.runs if run.seed == 0]


def test_seeds_take_the_place_of_the_experiments():
    """Also of runs that it has at one seed alone; seeds of one run stand next to each other."""
    found = demo(seeds=(5, 0, 1), sizes=("nano-8",))
    assert [run.seed for run in found.runs] == [5, 0, 1] * (len(found.runs) // 3)
    own = {run.run_id for run in plan("capacity_demo", "nano", DATA).runs if run.size == "nano-8"}
    assert own < set(ids(found))
    assert len(set(ids(found))) == len(found.runs)


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({"sizes": ("nano-80",)}, "--sizes nano-80: capacity_demo has no run of that size on the nano .*mean nano-8"),
        ({"sizes": ("x",)}, "on the nano ladder; Its sizes: nano-"),
        ({"sizes": ("nano-8", "nano-8")}, "--sizes names nano-8 twice"),
        ({"seeds": (1, 1)}, "--seeds names 1 twice"),
        ({"seeds": (-1,)}, "--seeds -1: a seed is a whole number"),
        ({"seeds": (True,)}, "--seeds True: a seed is a whole number"),
    ],
)
def test_what_is_no_size_or_seed_is_refused(selected, message):
    with pytest.raises(UserError, match=message):
        demo(**selected)


def test_starts_with_other_flags_add_their_runs(tmp_path):
    small, large = demo(sizes=("nano-8",)), demo(sizes=("nano-12",), seeds=(0, 1, 2))
    assert open_(small, tmp_path) == {"sweep.json"}
    before = (tmp_path / "sweep.json").read_bytes()
    assert len(files := open_(large, tmp_path)) == 2
    assert open_(large, tmp_path) == open_(small, tmp_path) == files
    assert listed(tmp_path) == [*ids(small), *ids(large)]
    whole = plan("capacity_demo", "nano", DATA)
    assert len(open_(whole, tmp_path)) == 3
    assert open_(demo(sizes=SIZES), tmp_path) == open_(whole, tmp_path)  # lists nothing that is not listed
    assert set(listed(tmp_path)) == {*ids(small), *ids(large), *ids(whole)}
    assert len(listed(tmp_path)) == len(set(listed(tmp_path)))
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_an_experiment_without_flags_is_recorded_as_ever(tmp_path):
    open_(plan("capacity_demo", "nano", DATA), tmp_path)
    known = {"schema", "experiment", "ladder", "data", "runs", "planned", "command", "versions", "sha256"}
    assert set(json.loads((tmp_path / "sweep.json").read_text())) == known


def test_an_addition_that_was_altered_is_named(tmp_path):
    open_(demo(sizes=("nano-8",)), tmp_path)
    (name,) = open_(demo(sizes=("nano-12",)), tmp_path) - {"sweep.json"}
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"planned": {}}))
    with pytest.raises(UserError, match=f"{name} was altered after it was written"):
        open_(demo(sizes=("nano-8",)), tmp_path)
    with pytest.raises(UserError, match=f"{name} was altered after it was written"):
        listed(tmp_path)


@pytest.mark.parametrize("first", [WHOLE, Selection(seeds=(0,))], ids=["whole", "selected"])
@pytest.mark.parametrize("second", [WHOLE, Selection(seeds=(0,)), Selection(seeds=(0, 1))], ids=["whole", "same", "ot"])
def test_an_edited_experiment_is_another_sweep_unless_it_has_grown(first, second, tmp_path):
    old = (tiny.run(), tiny.run(tokens=640))

    def sweep(selection, runs):
        every = () if selection == WHOLE else tuple(run.run_id for run in runs)
        return Sweep("mine", NANO, DATA, selection.of(runs, "mine", "nano"), selection, every)

    before = open_(sweep(first, old), tmp_path)
    for edited in [(tiny.run(), tiny.run(tokens=1280)), old[:1]]:  # a run that was changed, one that was taken away
        with pytest.raises(UserError, match=r"holds another sweep: of this sweep's . runs it lists .* after an edit"):
            open_(sweep(second, edited), tmp_path)
    assert open_(sweep(second, old), tmp_path) >= before
    opened, runs = open_(sweep(first, old), tmp_path), listed(tmp_path)
    more = sweep(WHOLE, (tiny.run(tokens=1280), *old))
    if second.seeds == (0, 1):  # its runs of seed 1 are none of the grown experiment's own
        with pytest.raises(UserError, match=r"of this sweep's 3 runs it lists 2, and 4 in all, as after an edit"):
            open_(more, tmp_path)
        return
    assert open_(more, tmp_path) > opened
    assert set(listed(tmp_path)) == {*runs, *(run.run_id for run in more.runs)}
    assert open_(more, tmp_path) == open_(more, tmp_path)
    with pytest.raises(UserError, match=r"of this sweep's 2 runs it lists 2, and 3 in all, as after an edit"):
        open_(sweep(WHOLE, old), tmp_path)


def own(**changes):
    sizes = {"mine-4": replace(NANO.sizes["nano-4"]), "mine-8": NANO.sizes["nano-8"]} | changes
    ladder = Ladder("mine", sizes, dict.fromkeys(sizes, 0.01), 8)
    runs = tuple(
        tiny.run(size=size, model=ladder.model(size, DATA.vocabulary), ladder="mine", data=DATA) for size in sizes
    )
    return Sweep("test", ladder, DATA, runs)


def test_a_ladder_of_ones_own_may_grow_and_not_change(tmp_path):
    assert open_(own(), tmp_path) == {"sweep.json"}
    grown = own(**{"mine-12": NANO.sizes["nano-12"]})
    assert len(open_(grown, tmp_path)) == 2
    assert listed(tmp_path) == ids(grown)
    with pytest.raises(UserError, match=r"size mine-8 of its ladder mine was .*; give the size another name, or"):
        open_(own(**{"mine-8": NANO.sizes["nano-16"]}), tmp_path)
    assert listed(tmp_path) == ids(grown)


RULES = ("layers/0/.*=dense", ".*=int4 hadamard 128")


def test_a_policy_takes_the_place_of_every_representation():
    """Each size and seed once, for its formats are one now; the list says the rules."""
    some, ruled = demo(sizes=SIZES), demo(sizes=SIZES, policy=RULES)
    assert {run.representation for run in ruled.runs} == {find_policy(RULES)}
    kinds = [(run.size, run.seed) for run in ruled.runs]
    assert set(kinds) == {(run.size, run.seed) for run in some.runs}
    assert len(set(ids(ruled))) == len(ruled.runs)
    seeded = demo(sizes=SIZES, policy=RULES, seeds=(5,))
    assert {(run.size, run.seed) for run in seeded.runs} == {(size, 5) for size in SIZES}


def test_runs_under_policies_are_added_to_those_without(tmp_path):
    plain, ruled = demo(sizes=SIZES), demo(sizes=SIZES, policy=RULES)
    open_(ruled, tmp_path)
    assert json.loads((tmp_path / "sweep.json").read_text())["selection"]["policy"] == list(RULES)
    open_(plain, tmp_path)
    assert set(listed(tmp_path)) == {*ids(plain), *ids(ruled)}


def test_rules_that_say_nothing_of_the_models_are_refused():
    with pytest.raises(UserError, match=r"rule 'layers/9/\.\*' matches no parameter"):
        demo(policy=("layers/9/.*=int8", ".*=int4"))
    with pytest.raises(UserError, match=r"--policy names \.\*=int4 twice"):
        demo(policy=(".*=int4", ".*=int4"))
