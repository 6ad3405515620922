"""Programs of training steps as they are compiled for devices that are not here."""

from typing import Any

import jax
import pytest

from capscale.sweep.preflight import QUICK


def keep_steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where programs that are quickly compiled end up from here on; those that ask for an option of XLA's do not."""
    steps, compiled = [], jax.stages.Lowered.compile

    def kept(self, compiler_options=None):
        made = compiled(self, compiler_options)
        steps.extend([made] if compiler_options == QUICK else [])
        return made

    monkeypatch.setattr(jax.stages.Lowered, "compile", kept)
    return steps
