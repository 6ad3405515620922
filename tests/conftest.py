"""Strict by default: warnings are errors, implicit dtype and rank promotion raise, two CPU devices."""

import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["RAY_AUTH_MODE"] = "disabled"  # a token that Ray may have left at home would be asked for

# What the tests compile is kept, for the other workers, the programs that tests start and the next run: compiling is
# most of their time. `pytest --cache-clear` empties it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "d" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import numpy as np
import pytest
from support.stores import Bucket, Server, serving, visiting

pytest.register_assert_rewrite("capscale.testing")

LARGEST_CACHE = 2**30
"""Bytes of compiled programs beyond which a run starts anew."""
MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000
"""Memory maps beyond which a worker forgets what it has compiled: every program takes tens of the 65,530 that Linux
grants a process, and at the last one XLA aborts. Single modules take up to 14,000."""
# As `capscale sweep` compiles for CPUs (`capscale.cli.training.CPU_FLAGS`): tests compile more than they run.
FLAGS = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
# One module of LLVM a program, and the emitters that start fastest where jax still has a choice (0.11 and later were
# not asked, 0.12 has none): a third less to compile, and products are contracted into sums as before.
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew from the tests that run")


@pytest.fixture
def regenerate(request) -> bool:
    """Whether golden files are to be written."""
    return request.config.getoption("regenerate")


def pytest_configure(config: pytest.Config) -> None:
    compiled = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    first = "PYTEST_XDIST_WORKER" not in os.environ
    if first and sum(entry.stat().st_size for entry in compiled.glob("*")) > LARGEST_CACHE:
        shutil.rmtree(compiled)
    config.addinivalue_line("filterwarnings", "error")
    # An entry that another process is writing, or that one killed has left in part, is compiled anew.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which kernels ran on which backends: one line for each, with why those that were skipped were."""
    counts: dict[str, dict[str, int]] = {}
    reasons: dict[str, set[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, kernel in getattr(report, "user_properties", []):
                if name == "kernel":
                    counts.setdefault(kernel, {}).setdefault(outcome, 0)
                    counts[kernel][outcome] += 1
                    if outcome == "skipped" and isinstance(report.longrepr, tuple):
                        reasons.setdefault(kernel, set()).add(report.longrepr[2].removeprefix("Skipped: "))
    if counts:
        terminalreporter.section("kernels")
    for kernel in sorted(counts):
        found = ", ".join(f"{count} {outcome}" for outcome, count in counts[kernel].items())
        why = f" ({'; '.join(sorted(reasons[kernel]))})" if kernel in reasons else ""
        terminalreporter.write_line(f"{kernel}: {found}{why}")


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Forgets compiled programs after a module that leaves many; what is needed again is read from disk."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _own_draws(request) -> None:
    """Starts the generators of a test's module anew by the test's name: what it draws hangs on no test before it."""
    modules = [request.module, *(module for name, module in sys.modules.items() if name.startswith("support."))]
    for value in [value for module in modules for value in vars(module).values()]:
        if isinstance(value, np.random.Generator):
            fresh = np.random.default_rng(zlib.crc32(request.node.name.encode()))
            value.bit_generator.state = fresh.bit_generator.state


@pytest.fixture(scope="session")
def gs_server() -> Iterator[Server]:
    """A server of gs:// for the tests of this worker."""
    with serving("gs") as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """A server of s3:// for the tests of this worker."""
    with serving("s3") as server:
        yield server


@pytest.fixture
def gs(gs_server, tmp_path, monkeypatch) -> Iterator[Bucket]:
    """A bucket of gs:// for this test, and this process sent there."""
    with visiting(gs_server, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def s3(s3_server, tmp_path, monkeypatch) -> Iterator[Bucket]:
    """The same in s3://."""
    with visiting(s3_server, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture(params=["gs", "s3"])
def bucket(request) -> Bucket:
    """Either of them."""
    return request.getfixturevalue(request.param)
