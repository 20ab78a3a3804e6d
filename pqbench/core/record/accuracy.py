"""How right the session that was timed is, and against its baseline."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.core.record.fields import Part, doc

METRIC_NAMES = {"top1": "top-1", "miou": "mIoU"}


@dataclass
class AgainstBaseline(Part):
    """Paired comparison of predictions on the same samples."""

    drop_pt: float = doc("Baseline's primary metric minus this one's, in percentage points")
    drop_low_pt: float = doc("Lower end of the 95 % interval")
    drop_high_pt: float = doc("Upper end of the 95 % interval")
    mcnemar_p: float | None = doc("Exact two-sided p of McNemar's test; null for segmentation")
    agreement: float = doc("Share of samples (pixels) with the same prediction")
    metric: str = doc("Primary metric, which the drop refers to: top1 or miou", default="top1")
    p: float | None = doc("Two-sided p of no drop, by `test`; null: too few to tell", default=None)
    test: str = doc("Which test gave p", default="")
    lost: int | None = doc("Samples that only the baseline has right", default=None)
    gained: int | None = doc("Samples that only this has right", default=None)
    error_pt: float | None = doc(
        "Segmentation: standard error of the drop (jackknife by image), in points", default=None
    )
    dof: float | None = doc("Degrees of freedom of that error", default=None)
    classes_tested: int = doc(
        "Classes whose drop was tested, which Holm's correction counts", default=0
    )


@dataclass
class ClassScore(Part):
    """How one class fares: its recall; for segmentation its intersection over union."""

    name: str = doc("Name of the class")
    count: int = doc("Samples of the class; for segmentation images in which it occurs")
    score: float = doc("Recall (IoU), 0..1")
    low: float | None = doc("Lower end of its 95 % interval; null: too few to tell", default=None)
    high: float | None = doc("Upper end of its 95 % interval; null: too few to tell", default=None)
    baseline: float | None = doc("The baseline's, 0..1", default=None)
    p: float | None = doc("Two-sided p of no change; null: not tested", default=None)
    adjusted_p: float | None = doc("The same after Holm's correction over classes", default=None)
    lost: bool = doc(
        "True if it fell below half of the baseline's and adjusted_p is below 0.05", default=False
    )


NOT_BETTER = "not shown to be better"  # a fault that more samples may take away


@dataclass
class Faithfulness(Part):
    """What one accuracy does not show: a model that answers always the same, or lost a class."""

    answer: str = doc("Class that is predicted most often")
    answer_rate: float = doc("Share of samples (pixels) for which it is predicted, 0..1")
    constant_answer: str = doc("Most frequent true class")
    constant_score: float = doc("What always answering that class would score, 0..1")
    balanced_accuracy: float = doc("Mean recall of the classes that occur, 0..1")
    balanced_low: float | None = doc("Lower end of its 95 % interval", default=None)
    balanced_high: float | None = doc("Upper end of its 95 % interval", default=None)
    calibration_error: float | None = doc(
        "Root mean square of probability minus share right over 15 bins of equal count, debiased, "
        "0..1",
        default=None,
    )
    calibration_low: float | None = doc("Lower end of its 95 % interval", default=None)
    calibration_high: float | None = doc("Upper end of its 95 % interval", default=None)
    classes: list[ClassScore] = doc(
        "By class; above 50 classes the 20 that fell most beyond the noise", default_factory=list
    )
    faults: list[str] = doc(
        "In words why this model must not be an answer: `answers one class`, `lost class X`; "
        "empty if nothing was found",
        default_factory=list,
    )


@dataclass
class Accuracy(Part):
    """Accuracy of the session that was timed."""

    split: str = doc("Split that was scored")
    count: int = doc("Samples that were scored")
    top1: float = doc("Share right, 0..1; of pixels for segmentation")
    top1_low: float = doc("Lower end of Wilson's 95 % interval (segmentation: jackknife)")
    top1_high: float = doc("Upper end of Wilson's 95 % interval (segmentation: jackknife)")
    macro_f1: float = doc("Mean over classes of F1, 0..1")
    top5: float | None = doc("Share with the label among the five highest; null below 6 classes")
    against_baseline: AgainstBaseline | None = doc("Null for a baseline", default=None)
    metric: str = doc("Name of the task's primary metric here: top1 or miou", default="top1")
    miou: float | None = doc("Segmentation: mean intersection over union, 0..1", default=None)
    miou_low: float | None = doc("Lower end of its 95 % interval, by image", default=None)
    miou_high: float | None = doc("Upper end of its 95 % interval, by image", default=None)
    class_iou: dict[str, float] = doc(
        "Segmentation: intersection over union by class", default_factory=dict
    )
    macro_f1_low: float | None = doc("Lower end of its 95 % interval", default=None)
    macro_f1_high: float | None = doc("Upper end of its 95 % interval", default=None)
    too_few: str = doc(
        "Why the intervals must not be trusted: too few images of a class; empty if enough",
        default="",
    )
    faithfulness: Faithfulness | None = doc("Null in records from before it was told", default=None)

    @property
    def primary(self) -> tuple[float, float, float]:
        """The task's primary metric and the ends of its interval, 0..1."""
        if self.metric == "miou" and self.miou is not None:
            low = self.miou if self.miou_low is None else self.miou_low
            return self.miou, low, self.miou if self.miou_high is None else self.miou_high
        return self.top1, self.top1_low, self.top1_high

    @property
    def metric_name(self) -> str:
        """The primary metric as tables name it: ``top-1`` or ``mIoU``."""
        return METRIC_NAMES.get(self.metric, self.metric)
