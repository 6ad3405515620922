"""Fails unless the losses of the `ordering` experiment rise from dense over int4 and int2 to int1.

Run: `capscale sweep ordering --out DIR && python scripts/check_ordering.py DIR`
"""

import json
import sys
from pathlib import Path

EXPECTED = ["dense", "int4", "int2", "int1"]


def main() -> int:
    """Exit status 0 if the losses are in order."""
    results = [json.loads(path.read_text()) for path in Path(sys.argv[1]).glob("runs/*/result.json")]
    losses = {result["row"]["weights"]: result["row"]["loss"] for result in results if result["status"] == "ok"}
    print(", ".join(f"{name} {loss:.4f}" for name, loss in sorted(losses.items(), key=lambda item: item[1])))
    in_order = sorted(losses, key=losses.__getitem__) == EXPECTED
    print("in order" if in_order else f"NOT in the order {' < '.join(EXPECTED)}")
    return 0 if in_order else 1


if __name__ == "__main__":
    sys.exit(main())
