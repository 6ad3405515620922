"""Strict by default: warnings are errors, implicit dtype and rank promotion raise, two CPU devices."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

# As `capscale sweep` compiles for CPUs (`capscale.cli.sweep.CPU_FLAGS`): tests compile more than they run.
FLAGS = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{FLAGS} {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")


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
