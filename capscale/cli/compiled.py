"""Where commands keep their compiled programs: small models and fits take longer to compile than to run."""

import os
import platform
from pathlib import Path


def keep_compiled() -> None:
    """Has jax keep what it compiles in the user's cache directory, apart for every machine.

    Nothing changes where JAX_COMPILATION_CACHE_DIR says another place, or the directory cannot be written.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    place = Path(home) / "capscale" / f"compiled-{platform.node()}-{platform.machine()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(place, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
