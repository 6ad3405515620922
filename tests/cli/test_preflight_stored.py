"""`capscale preflight` of weights that are not one rounded matrix: made of stored numbers, or nested."""

import importlib.util
import json

import pytest
from support import tiny

from capscale.cli import main
from capscale.parametrizations import Nola
from capscale.representation import Representation
from capscale.sweep import choosing
from capscale.sweep.fitting import Here
from capscale.sweep.preflight import Compiled, Setting, compile_step

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'capscale[tpu]'"
)
EXPERIMENT = """
from support import tiny

def runs(ladder, data):
    return [tiny.dense_run(data=data)]
"""


@pytest.mark.ci
@needs_libtpu
def test_layers_made_of_stored_numbers_are_listed_and_every_width_is_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(choosing, "compile_step", lambda run, setting, quick: Compiled(10**9, 2 * 10**9, 1.0, ""))
    path = tmp_path / "mine.py"
    path.write_text(EXPERIMENT)

    def told(*rules):
        arguments = ["preflight", str(path), "--vocabulary", "96", "--topology", "v5e:2x2", "--policy", *rules]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert main([*arguments, "--json"]) == 0
        (program,) = json.loads(capsys.readouterr().out)["programs"]
        return printed.splitlines(), program["runs"]

    printed, runs = told(".*mlp.*=shared2", ".*query.*=nested-8-4-2", ".*=dense")
    assert "  layers/0-1/mlp/up/kernel: shared2, 8 bits" in printed
    _, dense = told(".*=dense")
    assert [run["flops"] for run in runs] == [3 * run["flops"] for run in dense]


@pytest.mark.ci
def test_random_matrices_of_nola_are_memory():
    """They are constants of the program, which CPUs leave out of what they say of it."""

    def needed(parametrization):
        run = tiny.run(representation=Representation(parametrization=parametrization), batch=8)
        return compile_step(run, Setting(Here(10**12))).bytes

    more, fewer = Nola(1.0, 8), Nola(1.0, 1)
    bases = {
        (side, shape): 4 * more.arrays(shape)["left"][0] * 7 * side
        for shape in set(tiny.MODEL.projections.values())
        for side in shape
    }
    assert needed(more) - needed(fewer) > sum(bases.values())
