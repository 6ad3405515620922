"""Compiling for TPUs that are not here, in tests."""

from collections.abc import Callable
from typing import Any

import pytest
from capscale.kernels import aot


def compile_for_tpu(chip: str, function: Callable[..., Any], *operands: Any) -> Any:
    """`aot.compile_for_tpu`; skips the test where libtpu is not installed."""
    try:
        return aot.compile_for_tpu(chip, function, *operands)
    except aot.Unavailable as reason:
        pytest.skip(str(reason))
