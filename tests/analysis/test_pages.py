"""Pages that carry their data and figures, ask nothing of a network, and run nothing that a table says."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from support.limits import LIMIT_S
from support.synthetic import rho_of, runs

from capscale.analysis.fit import Settings
from capscale.analysis.hover import hover
from capscale.analysis.images import image_files
from capscale.analysis.inline_svg import inline_svg
from capscale.analysis.pictures import pictures
from capscale.analysis.report import write_report
from capscale.analysis.study import study
from capscale.analysis.table import make_table

BAD = "<script>alert(1)</script>"
WORSE = '"><img src=x onerror=alert(2)>'
VOID = {"meta", "br", "img", "link", "input"}


@pytest.fixture(scope="module")
def found():
    """A study of formats, runs and remarks whose names are markup."""
    rows = runs({n: rho_of(n) for n in ("int4", "int2", "top50")}, noise=0.02)
    error = {"int2": (BAD, 0.12), "top50": (WORSE, 0.07)}
    for row in rows:
        if row["weights"] in error:
            row["weights"], row["weights_gmse"] = error[row["weights"]]
            row["run"] = f"{BAD} {row['run']}"
    rows.append({**rows[-1], "run": BAD, "status": "diverged", "loss": float("nan")})
    return study(make_table(rows, BAD, strict=False), settings=Settings(starts=4), resamples=20)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    return write_report(found, tmp_path_factory.mktemp("report"), f"capscale report {BAD}")


class Reader(HTMLParser):
    """Tags with their attributes; notes those that are not closed where they should be."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.wrong = [], [], []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.mark.ci
def test_names_are_text_and_nothing_that_runs(page):
    text = page.read_text()
    read = Reader(text)
    assert read.wrong == []
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not [tag for tag, _ in read.tags if tag in ("img", "link", "iframe", "object")]
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert BAD not in text
    assert WORSE not in text


def test_the_policy_lets_run_the_script_of_the_page_alone(page):
    text = page.read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in text
    for tag, attributes in Reader(text).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes[name][:60])
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_the_data_inside_is_the_data_beside(page):
    offered = {a["download"]: a["href"] for tag, a in Reader(page.read_text()).tags if "download" in a}
    assert set(offered) == {"capacities.csv", "rows.csv", "report.json"}
    for name, link in offered.items():
        assert base64.b64decode(link.partition("base64,")[2]) == (page.parent / name).read_bytes()
    assert json.loads((page.parent / "report.json").read_text())["capacities"]


def test_every_figure_is_inside_and_beside_and_says_its_finding(page, found):
    drawn = pictures(found)
    svgs = [a for tag, a in Reader(page.read_text()).tags if tag == "svg"]
    assert [a["aria-label"] for a in svgs] == [p.alt for p in drawn]
    assert all(a["role"] == "img" and len(a["aria-label"]) > 40 for a in svgs)
    for picture in drawn:
        for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
            assert (page.parent / f"{picture.name}.{kind}").read_bytes().startswith(start)
    ids = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids))
    refers = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page.read_text())
    assert {a or b for a, b in refers} <= set(ids)


def test_alt_texts_are_computed(found):
    worst = min((c for c in found.capacities), key=lambda c: c.rho.estimate)
    other = replace(worst, rho=worst.rho._replace(estimate=0.0123))
    capacities = tuple(other if c is worst else c for c in found.capacities)
    alts = [{p.name: p.alt for p in pictures(s)} for s in (found, replace(found, capacities=capacities))]
    assert f"to {worst.rho.estimate:.3g} for {worst.curve}" in alts[0]["capacity"]
    assert f"to 0.0123 for {worst.curve}" in alts[1]["capacity"]
    assert alts[0]["agreement"] != alts[1]["agreement"]


def test_marks_say_what_they_are(page, found):
    text = page.read_text()
    c = found.capacities[0]
    assert f"ρ {c.rho.estimate:.3f} ({c.rho.low:.3f} to {c.rho.high:.3f})" in text
    keys = [a["data-key"] for tag, a in Reader(text).tags if tag == "tr" and "data-key" in a]
    assert keys == [f"f{i}" for i in range(len(found.capacities))]
    assert {a.get("data-key") for tag, a in Reader(text).tags if tag == "g"} >= set(keys)


def marked():
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], color="#0072B2")
    hover(axes, 0.5, 0.5, 'a < b & "c"', "k<")
    return figure


def test_an_svg_of_a_page_has_variables_titles_and_its_own_ids():
    svg = inline_svg(marked(), "mine", 'rises & "falls"')
    assert "stroke: var(--m-0072b2, #0072b2)" in svg
    assert '<title>a &lt; b &amp; "c"</title>' in svg
    assert 'data-key="k&lt;"' in svg
    assert 'aria-label="rises &amp; &quot;falls&quot;"' in svg
    assert set(re.findall(r' id="([a-z]+)', svg)) == {"mine"}
    assert "http" not in svg
    assert "<style" not in svg


def test_the_same_figure_makes_the_same_bytes():
    assert image_files("x", marked()) == image_files("x", marked())
    assert list(image_files("x", marked())) == ["x.png", "x.svg"]


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian: apt-get install chromium)")
def test_a_browser_sorts_and_prints_the_page(page, tmp_path):
    def chromium(*arguments):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=LIMIT_S)
        return done.stdout

    assert "<th><button type=" in chromium("--dump-dom", page.as_uri()), "the page's policy lets its script run"
    click = "for (let k = 0; k < 2; k++) document.querySelectorAll('table.sortable th button')[6].click();"
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text()).replace(
        "</body>", f"<script>{click}</script></body>"
    )
    (tmp_path / "clicked.html").write_text(text)
    body = chromium("--dump-dom", (tmp_path / "clicked.html").as_uri()).partition('class="sortable"')[2]
    rho = [float(x) for x in re.findall(r"<td><b>([\d.]+)</b></td>", body)]
    assert len(rho) == 3
    assert rho == sorted(rho, reverse=True)
    assert 'aria-sort="descending"' in body
    chromium(f"--print-to-pdf={tmp_path / 'page.pdf'}", page.as_uri())
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert 2 <= pages <= 4
