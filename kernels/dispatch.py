"""Which backend runs an operation: decided once per operation, shape and dtype, and logged once.

TPUs and GPUs of compute capability 9.x (Hopper) have kernels; everything else, and whatever a kernel
says it cannot do, runs the plain XLA code. `CAPSCALE_KERNELS` chooses: "auto" (default), "reference" (XLA alone), or
"require" (raise in place of falling back). Where XLA was measured to be faster, "auto" is XLA (see `measured`).
"""

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, cast, get_args

import jax

from .config import KERNELS, setting

Backend = Literal["reference", "tpu", "gpu"]
Mode = Literal["reference", "auto", "require"]
Platform = Literal["cpu", "tpu", "gpu"]

HOPPER = "9."
"""How compute capabilities begin whose GPUs run the kernels: products are wgmma's, which no later chip has either."""

_GENERATIONS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v6 lite": "v6e", "TPU v6e": "v6e"}
"""Generations by what their devices call themselves."""

logger = logging.getLogger("capscale.kernels")


class Target(NamedTuple):
    """Platform that programs are compiled for."""

    platform: Platform
    interpret: bool
    """Whether kernels are interpreted on the host, to be compared with the reference."""
    chip: str | None = None
    """Generation of the chip, such as v5e; None where nobody said it."""


# Part of jit's cache key, so that a function traced under one mode is traced again under another.
_MODE = jax.make_user_context(None)
_TARGET = jax.make_user_context(None)

_decided: dict[tuple[Mode, Target, bool, str, Hashable], Backend] = {}


def force(mode: Mode) -> AbstractContextManager[None]:
    """Context in which `mode` stands in place of `CAPSCALE_KERNELS`; in this thread, and in what is traced here."""
    return _MODE(_checked(mode, "force"))


def target(platform: Platform, interpret: bool = False, chip: str | None = None) -> AbstractContextManager[None]:
    """Context in which `platform` is compiled for, whatever this host is: ahead of time, or interpreted on a CPU.

    `chip`: its generation, for what was found of that alone.
    """
    if platform not in get_args(Platform):
        raise ValueError(f"target({platform!r}): use {', '.join(get_args(Platform))}")
    return _TARGET(Target(platform, interpret, chip))


def mode() -> Mode:
    """The mode in force: that of the innermost `force`, else the environment's. A bad value raises ValueError."""
    forced = _MODE.value
    if forced is not None:
        return cast(Mode, forced)
    given = setting(KERNELS)
    return "auto" if given is None else _checked(given, KERNELS)


def current() -> Target:
    """Platform that programs are compiled for: the innermost `target`'s, else the default backend of this process."""
    chosen = _TARGET.value
    if chosen is not None:
        return cast(Target, chosen)
    platform = jax.default_backend()
    return Target(cast(Platform, platform if platform in ("tpu", "gpu") else "cpu"), False)


def chip() -> str | None:
    """Generation of the chip that programs are compiled for: the innermost `target`'s, else that of this process."""
    chosen = _TARGET.value
    return cast(Target, chosen).chip if chosen is not None else _GENERATIONS.get(jax.devices()[0].device_kind)


Reason = Callable[[Backend], str | None]
"""Why a backend does not run an operation, or None where it does."""


def _never(_: Backend) -> None:
    return None


def choose(
    op: str, on: Hashable, unsupported: Reason, slower: Reason = _never, *, detail: str | None = None
) -> Backend:
    """Backend of `op`, decided once for everything that `on` holds: all that the answer depends on, by value.

    `unsupported`: why a backend cannot run it; `slower`: why "auto" leaves it to XLA all the same. `detail`: `on` as
    the log tells it, `str(on)` if None. A fallback is logged with its reason: as a warning where there is an
    accelerator that then runs slower than it could. Under "require" it raises ValueError.
    """
    key = (mode(), current(), wide_numbers(), op, on)
    if key not in _decided:
        told = str(on) if detail is None else detail
        _decided[key] = _decide(mode(), current(), op, told, unsupported=unsupported, slower=slower)
    return _decided[key]


def decisions() -> str:
    """Backends that this process has chosen for its platform so far, by operation; for what a result was made with.

    Such as `attention tpu, project tpu and reference`; empty where nothing asked, as on CPUs without compression.
    """
    chosen: dict[str, set[str]] = {}
    for (_, of, _, op, _), backend in list(_decided.items()):
        if of == current():
            chosen.setdefault(op, set()).add(backend)
    order = get_args(Backend)[::-1]
    return ", ".join(f"{op} {' and '.join(b for b in order if b in chosen[op])}" for op in sorted(chosen))


def forget_kernels() -> tuple[str, ...]:
    """Forgets what "auto" has left to kernels of this platform, and names these operations; for `WithFallback`."""
    given = [
        key for key, backend in list(_decided.items()) if key[:2] == ("auto", current()) and backend != "reference"
    ]
    for key in given:
        _decided.pop(key, None)
    return tuple(sorted({op for *_, op, _ in given}))


def wide_numbers() -> bool:
    """Whether Python's numbers become 64 bits wide, which kernels do not take."""
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


def _decide(mode: Mode, target: Target, op: str, detail: str, *, unsupported: Reason, slower: Reason) -> Backend:
    if mode == "reference":
        logger.info("%s %s: reference, as asked", op, detail)
        return "reference"
    backend = _backend(target)
    reason = backend
    if backend in ("tpu", "gpu"):
        reason = "jax_enable_x64 is set, and kernels count in 32 bits" if wide_numbers() else unsupported(backend)
    if reason is None and mode == "auto" and not target.interpret and (faster := slower(cast(Backend, backend))):
        logger.info("%s %s: XLA, as %s", op, detail, faster)
        return "reference"
    if reason is None:
        logger.info("%s %s: %s%s", op, detail, backend, ", interpreted" if target.interpret else "")
        return cast(Backend, backend)
    if mode == "require":
        raise ValueError(
            f"{KERNELS}=require, but no kernel runs {op} {detail} on {target.platform}: {reason}; "
            f"use {KERNELS}=auto to let XLA run it"
        )
    logger.log(logging.INFO if target.platform == "cpu" else logging.WARNING, "%s %s: XLA, as %s", op, detail, reason)
    return "reference"


def _backend(target: Target) -> str:
    """The backend of a target, or why it has none."""
    if target.platform == "cpu":
        return "there are kernels for TPU and GPU alone"
    if target.platform == "gpu" and _TARGET.value is None:
        device = jax.devices("gpu")[0]
        capability = getattr(device, "compute_capability", None)
        if not str(capability).startswith(HOPPER):
            return f"{device.device_kind} has compute capability {capability}; kernels need {HOPPER}x"
    return target.platform


def _checked(value: str, source: str) -> Mode:
    if value not in get_args(Mode):
        raise ValueError(f"{source}={value!r}: use {', '.join(get_args(Mode))}")
    return cast(Mode, value)
