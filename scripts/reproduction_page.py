"""docs/reproduction.md, its numbers and its pictures, from the rows of the reproduction that come with capscale.

    python scripts/reproduction_page.py                # docs/reproduction.md, docs/reproduction/*
    python scripts/reproduction_page.py fig1a --ladder micro    # docs/reproduction-micro.md, of one figure

A test judges the same rows again and holds the page's verdicts to them.
"""

import argparse
import json
from pathlib import Path

from capscale.analysis.images import encoded
from capscale.analysis.numbers import json_ready
from capscale.models.ladder import ladder
from capscale.reproduction.chapters import chosen, judged
from capscale.reproduction.committed import about_rows, rows_of
from capscale.reproduction.page import markdown, numbers

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Writes the page of a ladder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["all"], help="figures and tables (all)")
    parser.add_argument("--ladder", default="nano", help="whose rows (nano)")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    arguments = parser.parse_args()
    scale = ladder(arguments.ladder)
    table, data = rows_of(scale)
    found = [judged(chapter, chapter.runs(scale, data), table, scale.name) for chapter in chosen(arguments.names)]
    name = "reproduction" if scale.name == "nano" else f"reproduction-{scale.name}"
    about = {
        "ladder": scale.name,
        "command": f"capscale reproduce {' '.join(arguments.names)} --ladder {scale.name} --from-rows",
    }
    about |= {"pictures": name} | about_rows(scale)
    folder = arguments.docs / name
    folder.mkdir(parents=True, exist_ok=True)
    figures = {each.chapter.name: each.figure() for each in found}
    drawn = {name: encoded(figure, "png") for name, figure in figures.items() if figure is not None}
    for chapter, image in drawn.items():
        (folder / f"{chapter}.png").write_bytes(image)
    (arguments.docs / f"{name}.md").write_text(markdown(found, about, list(drawn)))
    (folder / "numbers.json").write_text(json.dumps(json_ready(numbers(found, about)), indent=1) + "\n")
    print(arguments.docs / f"{name}.md")


if __name__ == "__main__":
    main()
