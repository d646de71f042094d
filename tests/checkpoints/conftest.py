"""Fixtures: a loopback Hub and someone who asks it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_client import Client, contents
from tests.loopback_hub import LoopbackHub


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Iterator[Client]:
    client = Client(hub, tmp_path / "home")
    yield client
    client.keeps_the_token_secret()


@pytest.fixture
def small_files(small_checkpoint: Path) -> dict[str, bytes]:
    """A merged checkpoint as its repository holds it."""
    return contents(small_checkpoint)
