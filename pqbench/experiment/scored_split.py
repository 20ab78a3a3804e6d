"""The split that a record scored, prepared again from its configuration."""

from __future__ import annotations

from pathlib import Path

from pqbench.core.split import PreparedSplit
from pqbench.core.task import SplitRequest
from pqbench.experiment.config import ExperimentConfig
from pqbench.experiment.tasks import get_task


def scored_split(config: ExperimentConfig, folder: Path, limit: int | None = None) -> PreparedSplit:
    """Prepare it.

    Args:
        config: The record's configuration, whose classes are trusted.
        folder: Where to write.
        limit: At most so many samples; None takes as many as were scored.

    Raises:
        PqbenchError: The data are not here, or have changed.
    """
    dataset = config.dataset
    counts = [count for count in (dataset.limit, limit) if count is not None]
    request = SplitRequest(
        source=dataset.source,
        split=dataset.split,
        scored=dataset.split,
        task=config.model.task,
        limit=min(counts, default=None),
        seed=config.seed,
        threads=config.threads,
        on_error=dataset.on_error,
        resize_mode=dataset.resize_mode,
        preprocess=config.model.preprocess,
        tokenizer=config.model.tokenizer,
        onnx_file=config.model.onnx_file(),
    )
    return get_task(config.model.task).prepare(request, folder)
