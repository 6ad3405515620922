"""Reading the text of a compiled program."""

import re

from jax.stages import Compiled


def depths_of_sums_over_devices(compiled: Compiled) -> set[int]:
    """How many loops each all-reduce stands in."""
    text = compiled.as_text()
    assert text is not None
    bodies = {}
    for computation in re.split(r"\n(?=(?:ENTRY )?%\S+ \()", text):
        name = computation.split(" (")[0]
        bodies["ENTRY" if name.startswith("ENTRY") else name] = computation

    def of(name: str, depth: int) -> set[int]:
        found = {depth} if re.search(r"= .*all-reduce(-start)?\(", bodies[name]) else set()
        for kind, called in re.findall(r"(body|calls|to_apply)=(%[^\s,]+)", bodies[name]):
            found |= of(called, depth + (kind == "body"))
        return found

    return of("ENTRY", 0)
