"""Quantizers of recipes' authors, run as they are on CPUs, from checkouts of their repositories.

Triton's interpreter runs Quartet's kernels. What their files import beside that and is not needed here (a base class,
a fast Hadamard transform) is put in its place; what they put on a GPU stays on the CPU.
"""

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import triton  # pyright: ignore[reportMissingImports]
from scipy.linalg import hadamard

Tensor = Any
Theirs = Mapping[str, Callable[[Tensor], Tensor]]
Draws = Mapping[str, Callable[[Tensor, int], Tensor]]
"""Draws (count, *shape) of a tensor, by name."""
QUANTIZERS = "src/models/quantization/quantizers"


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Makes tensors where there is no GPU."""
    kept = torch.tensor, torch.eye
    torch.tensor, torch.eye = (lambda *args, make=make, device=None, **named: make(*args, **named) for make in kept)
    try:
        yield
    finally:
        torch.tensor, torch.eye = kept


def module(name: str, path: Path) -> Any:
    """The file as a module of that name, which others find; packages around it are empty."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        package = sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        package.__path__ = []
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    with on_the_cpu():
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def quantizers(place: Path, *names: str) -> Any:
    """The last of some files of quantizers of IST-DASLab's repositories, behind those that it imports."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit(
            "set TRITON_INTERPRET=1: Triton reads it as it is imported, and runs kernels without a GPU then"
        )
    # One block size in place of a search for the fastest, which values do not depend on.
    triton.autotune = lambda configs, key: triton.heuristics({"BLOCK_SIZE": lambda _: configs[-1].kwargs["BLOCK_SIZE"]})
    base, fast = types.ModuleType("models.quantization.quantizers.base"), types.ModuleType("fast_hadamard_transform")
    vars(base).update(BaseQuantizer=type("BaseQuantizer", (), {"__init__": lambda self, bits: None}))
    vars(fast).update(hadamard_transform=lambda x, scale: x @ torch.from_numpy(hadamard(len(x)) * scale).to(x.dtype))
    sys.modules |= {base.__name__: base, fast.__name__: fast}
    return [module(f"models.quantization.quantizers.{name}", place / QUANTIZERS / f"{name}.py") for name in names][-1]


def quartet(place: Path) -> tuple[Theirs, Draws]:
    """Quartet's forward pass with its mask, and its rounding by chance, without rotations and with one."""
    code = quantizers(place, "mxfp4_triton", "mxfp4")
    plain, turn = torch.eye(32), torch.from_numpy(np.float32(hadamard(32) / 32**0.5))

    def forward(x: Tensor, matrix: Tensor = plain) -> Tensor:
        return code.QuestMXFP4QuantizerFn.apply(x, matrix, 1.0)

    def mask(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        forward(leaf).backward(torch.ones_like(x))
        return leaf.grad

    def drawn(x: Tensor, count: int) -> Tensor:
        return code.AlbertTsengQuantizerFn.apply(x.repeat(count, 1, 1), plain, True)

    theirs = {
        "quartet mxfp4": forward,
        "quartet mxfp4, centred": forward,
        "quartet mxfp4, centred and rotated": lambda x: forward(x, turn),
        "quartet mask, centred": mask,
        "quartet mxfp4 at 3/4": lambda x: code.AlbertTsengQuantizerFn.apply(x, plain, False),
    }
    return theirs, {"quartet mxfp4": drawn}


def quartet2(place: Path) -> Draws:
    """Rounding by chance of Quartet II: of values, of scales, and MS-EDEN with a correction for every group."""
    code = quantizers(place, "eden")
    with on_the_cpu():
        eden = code.EdenSRQuantizer(16, 16, "e4m3", "eden", scale_override=0.93)
    eden.hadamard_matrix = torch.eye(16)
    return {
        "quartet2 e2m1": lambda x, count: code.sr_fp4(x.repeat(count, 1, 1), eden.grid),
        "quartet2 e4m3": lambda x, count: code.sr_e4m3(x.repeat(count, 1, 1)),
        "quartet2 ms-eden": lambda x, count: eden.forward(x.repeat(count, 1, 1)),
    }


def microxcaling(place: Path) -> tuple[Theirs, Draws]:
    """Microsoft's MX formats, and the rounding that the patch of mxfp4-llm adds to them, if it was applied."""
    torch._dynamo.config.disable = True  # the patch compiles the function, which values do not depend on
    for name in ("formats", "specs", "elemwise_ops", "mx_ops"):
        code = module(f"mx.{name}", place / f"mx/{name}.py")
    elements = {"mxfp4": "fp4_e2m1", "mxint8": "int8"}
    elements |= {f"mxfp{bits}-{kind}": f"fp{bits}_{kind}" for bits, kind in ((6, "e2m3"), (6, "e3m2"), (8, "e4m3"))}
    elements["mxfp8-e5m2"] = "fp8_e5m2"

    def by(name: str, rounding: str) -> Callable[[Tensor], Tensor]:
        return lambda x: code._quantize_mx(x.clone(), 8, elements[name], axes=[-1], block_size=32, round=rounding)

    def drawn(rounding: str) -> Callable[[Tensor, int], Tensor]:
        return lambda x, count: by("mxfp4", rounding)(x.repeat(count, 1, 1))

    theirs = {f"microxcaling {name}": by(name, "even") for name in elements}
    theirs["microxcaling mxfp4, ties up"] = by("mxfp4", "nearest")
    return theirs, {"microxcaling mxfp4": drawn("dither"), "mxfp4-llm mxfp4": drawn("dither_scale")}
