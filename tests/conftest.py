"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Programs that took long to compile are shared by the processes of a run, and kept for the next one in .pytest_cache."""
    if config.cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax_programs")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """A process may map so much memory and no more; hundreds of compiled programs reach that, and XLA then crashes."""
    yield
    jax.clear_caches()
    if "matplotlib.pyplot" in sys.modules:  # figures that scripts of the documentation leave open
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """A list that grows by one entry whenever XLA compiles something."""
    seen: list[str] = []
    active = [True]

    def listen(event: str, duration: float, **_: object) -> None:
        if active[0] and event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    active[0] = False
