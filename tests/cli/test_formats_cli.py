"""The commands about formats: their numbers, their JSON, their pictures and their refusals."""

import json
import os
import subprocess
import sys
import time

import pytest

from capscale.cli import formats_plot
from capscale.cli.formats import Gmse, PlotFormats, format_rows
from capscale.errors import UserError
from capscale.formats import catalog
from capscale.gaussian_mse import computed


def test_json_is_a_list_and_nothing_else(capsys):
    assert Gmse(("int4", "2:4", "top50"), json=True)() == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["int4", "2:4", "top50"]
    for row, expected in zip(rows, (0.01154288, 0.13244740, 0.07132592), strict=True):
        assert abs(row["gmse"] - expected) < 1e-8
        assert row["standard_error"] == 0
        assert abs(row["gap"] - (row["bits"] - row["effective_bits"])) < 1e-12
    assert rows[0]["bits"] == 4


def test_dense_has_no_effective_bits(capsys):
    Gmse(("dense",), json=True)()
    row = json.loads(capsys.readouterr().out)[0]
    assert row["effective_bits"] is None
    assert row["gmse"] == 0


def test_moments_are_told_when_asked_for(capsys):
    Gmse(("int4", "dense"), moments=True, json=True)()
    quantized, dense = (row["moments"] for row in json.loads(capsys.readouterr().out))
    assert quantized["shrinkage"] == pytest.approx(1 - quantized["along"])
    assert quantized["effective_bits"] == pytest.approx(3.22, abs=0.01)
    assert (dense["noise"], dense["effective_bits"]) == (0, None)
    Gmse(("int4", "dense"), moments=True)()
    printed = capsys.readouterr().out
    assert "E[x Q(x)]" in printed
    assert f"{quantized['misalignment']:.5f}" in printed
    assert "moments" not in format_rows(("int4",), "normal", None, None)[0]


def test_the_table_names_what_it_prints(capsys):
    assert Gmse(("int4", "top50+int4"), distribution="laplace")() == 0
    printed = capsys.readouterr().out
    assert "laplace" in printed
    assert "top50+int4" in printed


def test_capacity_zero_is_flagged(capsys):
    Gmse(("absmax-int2",), row_length=640 * 640)()
    assert "capacity 0" in capsys.readouterr().out


def test_student_t_takes_its_degrees_of_freedom():
    heavy, light = (format_rows(("top50",), "student-t", df, None)[0]["gmse"] for df in (3.0, 300.0))
    normal = format_rows(("top50",), "normal", None, None)[0]["gmse"]
    assert heavy < light
    assert abs(light - normal) < 1e-3


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Gmse(("imt4",)), "closest: int4"),
        (Gmse(("int4",), row_length=1), "at least 2"),
        (Gmse(("int4",), distribution="student-t", df=1.0), "df > 2"),
        (PlotFormats(("int4",), out="formats.txt"), "a picture is"),
        (PlotFormats(("int4",), out="nowhere/formats.png"), "no directory"),
    ],
)
def test_bad_input_is_refused(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(command, PlotFormats):
        from pathlib import Path

        command = PlotFormats(command.names, Path(command.out))
    with pytest.raises(UserError, match=message):
        command()


def test_the_picture_is_drawn(tmp_path, capsys):
    path = tmp_path / "formats.png"
    assert PlotFormats(("int2", "int4", "top50", "mxfp4"), out=path)() == 0
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert capsys.readouterr().out.strip() == str(path)


def test_names_in_the_picture_of_all_formats_hide_no_name():
    rows = format_rows((), "normal", None, None)
    assert len(rows) > 200
    figure = formats_plot.picture(rows)
    figure.draw_without_rendering()
    named = 0
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        named += len(boxes)
        frame = axes.get_window_extent()
        assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number]), axes.texts[number].get_text()
    shown = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert named == len(shown) >= 25
    assert shown >= {row["name"] for row in formats_plot.frontier(row for row in rows if row["gmse"])}


def test_the_frontier_is_what_no_other_beats():
    rows = [
        {"name": name, "bits": bits, "gmse": error}
        for name, bits, error in (("a", 2, 0.1), ("b", 2, 0.2), ("c", 3, 0.1), ("d", 3, 0.05), ("noise2", 1, 0.01))
    ]
    assert [row["name"] for row in formats_plot.frontier(rows)] == ["a", "d"]


@pytest.mark.ci
def test_the_picture_of_all_formats_is_quick(tmp_path):
    """As a program of its own: their errors are shipped."""
    command = [sys.executable, "-c", "from capscale.cli import main; raise SystemExit(main())", "plot-formats"]
    start = time.perf_counter()
    done = subprocess.run([*command, "--out", str(tmp_path / "all.png")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 20  # 8 on two busy cores


def test_the_exact_part_of_the_catalog_is_quick():
    start = time.perf_counter()
    for name, format in catalog.FORMATS.items():
        if not any(
            measured in name
            for measured in (
                "+absmax",
                "+mx",
                "+nv",
                "+rotated",
                "mxfp4-out",
                "nvfp4-out",
                "higgs",
                "four-over-six",
                "_k",
                "hif4",
                "e8p",
            )
        ):
            assert computed(format).standard_error == 0
    assert time.perf_counter() - start < 30  # 10 on two idle cores


@pytest.mark.ci
def test_accelerators_are_left_to_training():
    """By what does not train: a platform that is not there, or that another process holds, is not asked for."""
    environment = {**os.environ, "JAX_PLATFORMS": "tpu"}
    command = [
        sys.executable,
        "-c",
        "from capscale.cli import main; raise SystemExit(main())",
        "gmse",
        "higgs-d2-n16",
        "--row-length",
        "64",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
