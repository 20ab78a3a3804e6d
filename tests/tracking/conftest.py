"""A store that is there already, for the tests of what is put into one and found in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench.tracking.settings import TrackingSettings
from pqbench.tracking.store import opened


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store without experiments; a new database takes seconds: tests copy it."""
    folder = tmp_path_factory.mktemp("store") / "outputs"
    with opened(TrackingSettings(outputs=str(folder))):
        return folder
