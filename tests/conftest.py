"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


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
