"""Coverage of the intervals of accuracy, of its drop, of class means, calibration and mIoU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simulate
from covered import Found, Line, covered

from pqbench.core.proportions import paired_difference, wilson
from pqbench.measure.faithfulness import calibration, class_mean_intervals
from pqbench.measure.overlap import jackknife, mean_iou, share_interval
from pqbench.measure.segmentation import compare as compare_maps

Floats = simulate.Floats


def accuracy_lines(repeats: int, seed: int) -> Iterator[Line | None]:
    """Shares near 0 and 1, paired drops, class means with rare classes, calibration.

    A share of few samples is discrete: at one true value an interval may hold it in 89 % or in
    100 % of cases. So the true value is drawn anew each time, within the range that is named.
    """
    rng = np.random.default_rng([seed, 100])
    for count in (50, 320, 5000):
        for low, high in ((0.0, 0.1), (0.1, 0.9), (0.9, 1.0)):

            def one(count: int = count, low: float = low, high: float = high) -> Found:
                share = rng.uniform(low, high)
                ends = wilson(int(rng.binomial(count, share)), count)
                return _moved(ends, share)

            yield covered("accuracy, recall", f"{count}, {low:g} to {high:g}", 0, one, repeats)
        for flips in (0.01, 0.05, 0.3):

            def drop(count: int = count, flips: float = flips) -> Found:
                lose = rng.uniform(0, flips)
                won = rng.uniform(0, flips)
                lost, gained, _ = rng.multinomial(count, [lose, won, 1 - lose - won])
                return _moved(paired_difference(int(lost), int(gained), count), lose - won)

            where = f"{count}, up to {flips:g} flipped"
            yield covered("drop", where, 0, drop, repeats, count * flips < 3)
    for name, prior, recall in (
        ("10 even classes", np.full(10, 0.1), np.full(10, 0.9)),
        ("10 even classes, nearly all right", np.full(10, 0.1), np.full(10, 0.99)),
        ("2 classes, one weak", np.array([0.69, 0.31]), np.array([0.95, 0.5])),
        ("a rare class", np.array([0.9, 0.07, 0.03]), np.array([0.97, 0.8, 0.6])),
    ):
        labels = rng.choice(len(prior), 1_000_000, p=prior)
        truth = class_mean_intervals(simulate.answers(labels, recall, rng), labels)
        for count in (320, 2000):
            for figure in ("balanced_accuracy", "macro_f1"):

                def mean(
                    prior: Floats = prior,
                    recall: Floats = recall,
                    count: int = count,
                    figure: str = figure,
                ) -> Found:
                    labels = rng.choice(len(prior), count, p=prior)
                    found = class_mean_intervals(simulate.answers(labels, recall, rng), labels)
                    return found[figure][1:]

                where = f"{count}, {name}"
                yield covered(figure.replace("_", " "), where, truth[figure][0], mean, repeats)
    for over in (0.0, 0.03, 0.1):
        for count in (320, 2000):

            def gap(over: float = over, count: int = count) -> Found:
                probability = 0.5 + 0.5 * rng.beta(4, 1, count)
                right = rng.random(count) < probability - over
                found = calibration(right, probability.astype(np.float32))
                return found[1], found[2]

            yield covered("calibration error", f"{count}, {over:g}", over, gap, repeats, over == 0)


def _moved(ends: tuple[float, float], truth: float) -> Found:
    """The interval of the error, whose truth is 0, for a truth that changes with each draw."""
    return ends[0] - truth, ends[1] - truth


def map_lines(repeats: int, seed: int) -> Iterator[Line | None]:
    """Mean IoU and its drop, by image."""
    rng = np.random.default_rng([seed, 200])
    for name, quality, present in (
        ("2 classes", np.array([0.97, 0.8]), np.array([1.0, 0.8])),
        ("4 good classes", np.array([0.98, 0.97, 0.96, 0.95]), np.array([1, 1, 0.9, 0.8])),
        ("6 classes", np.linspace(0.95, 0.5, 6), np.array([1, 1, 0.9, 0.8, 0.7, 0.6])),
    ):
        worse = quality - 0.03
        truth = float(mean_iou(simulate.class_maps(100_000, quality, present, rng).sum(0)))
        other = float(mean_iou(simulate.class_maps(100_000, worse, present, rng).sum(0)))
        for images in (8, 30, 200):

            def miou(
                quality: Floats = quality, present: Floats = present, images: int = images
            ) -> Found:
                counts = simulate.class_maps(images, quality, present, rng)
                if ((counts[..., 1] > 0).sum(0) < 3).any():
                    return None, None  # the record says: too few images
                return share_interval(jackknife(mean_iou, counts))

            def drop(
                quality: Floats = quality,
                worse: Floats = worse,
                present: Floats = present,
                images: int = images,
            ) -> Found:
                theirs = simulate.class_maps(images, quality, present, rng)
                ours = simulate.class_maps(images, worse, present, rng)
                if ((theirs[..., 1] > 0).sum(0) < 3).any() or ((ours[..., 1] > 0).sum(0) < 3).any():
                    return None, None
                found = compare_maps(ours, theirs, 0.9)
                return found.drop_low_pt, found.drop_high_pt

            where = f"{images} images, {name}"
            yield covered("mIoU", where, truth, miou, repeats)
            yield covered("mIoU drop", where, 100 * (truth - other), drop, repeats)
