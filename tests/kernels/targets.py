"""Compiling for TPUs that are not here, in tests."""

from collections.abc import Callable
from typing import Any

import pytest
from capscale.kernels import ahead


def compile_for_tpu(chip: str, function: Callable[..., Any], *operands: Any) -> Any:
    """`ahead.compile_for_tpu`; skips the test where libtpu is not installed."""
    try:
        return ahead.compile_for_tpu(chip, function, *operands)
    except ahead.Unavailable as reason:
        pytest.skip(str(reason))
