r"""An ImageNet model on Imagenette: its 1000-way head, and that head cut to the ten classes.

The images are prepared as in any run: ``--limit`` of ``val``, most of which such a model has seen
in its training, and all 500 of ``clean``, none of which it has. One pass of the 1000-way network
gives both figures, as cutting a head leaves the scores that are kept as they are.

    python scripts/bench/accuracy/imagenet_heads.py --root data/imagenette2-320 \
        model=squeezenet1_1 model.weights=file model.weights_file=squeezenet1_1.pth
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from pqbench.app.arguments import config_folder
from pqbench.core.dataset import Dataset
from pqbench.core.instantiate import make
from pqbench.core.proportions import wilson
from pqbench.core.split import PreparedSplit
from pqbench.core.task import SplitRequest
from pqbench.experiment import config as schema
from pqbench.experiment.tasks import get_task
from pqbench.machine.cpu import usable_cores
from pqbench.models.prepare import prepare_model
from pqbench.nets.checkpoint import load_network

IMAGENET = 1000
BATCH = 50


def right(network: Any, split: PreparedSplit, indices: tuple[int, ...]) -> tuple[int, int]:
    """How many of a split's images are right: among the classes ``indices``, and among all."""
    labels, few, all_ = split.labels(), 0, 0
    for start, batch in enumerate(split.batches(BATCH)):
        with torch.inference_mode():
            scores = network(*(torch.from_numpy(a) for a in batch.values())).numpy()
        wanted = labels[start * BATCH : start * BATCH + len(scores)]
        few += int((scores[:, indices].argmax(1) == wanted).sum())
        all_ += int((scores.argmax(1) == np.asarray(indices)[wanted]).sum())
    return few, all_


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", required=True, help="Imagenette's folder")
    parser.add_argument("--limit", type=int, default=1000, help="images of val")
    parser.add_argument("overrides", nargs="+", help="the model, as for python -m pqbench")
    given = parser.parse_args()
    schema.register()
    overrides = ["dataset=imagenette", f"dataset.root={given.root}", *given.overrides]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = schema.read(compose("config", overrides=overrides))
    schema.validate(config)
    model, dataset = config.model, config.dataset
    index = make(dataset.source, "dataset.source", Dataset).index()
    with tempfile.TemporaryDirectory() as name:
        network: Any = None
        for part, limit in (("val", given.limit), ("clean", None)):
            request = SplitRequest(
                dataset.source,
                part,
                part,
                limit=limit,
                seed=config.seed,
                threads=usable_cores(),
                preprocess=model.preprocess,
            )
            split = get_task(model.task).prepare(request, Path(name) / part)
            if network is None:
                artifact, _ = prepare_model(
                    model,
                    [str(i) for i in range(IMAGENET)],
                    dataset.name,
                    tuple(range(IMAGENET)),
                    split.specs(),
                    Path(name) / "model",
                    seed=0,
                )
                network = load_network(artifact)
            for ways, count in zip(
                (10, IMAGENET), right(network, split, index.imagenet_indices), strict=True
            ):
                low, high = wilson(count, len(split))
                print(
                    f"{model.name}: {part}, {len(split):,} images, {ways}-way top-1 "
                    f"{100 * count / len(split):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
                )


if __name__ == "__main__":
    main()
