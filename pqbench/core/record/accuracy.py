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


@dataclass
class Accuracy(Part):
    """Accuracy of the session that was timed."""

    split: str = doc("Split that was scored")
    count: int = doc("Samples that were scored")
    top1: float = doc("Share right, 0..1; of pixels for segmentation")
    top1_low: float = doc("Lower end of Wilson's 95 % interval (segmentation: bootstrap)")
    top1_high: float = doc("Upper end of Wilson's 95 % interval (segmentation: bootstrap)")
    macro_f1: float = doc("Mean over classes of F1, 0..1")
    top5: float | None = doc("Share with the label among the five highest; null below 6 classes")
    against_baseline: AgainstBaseline | None = doc("Null for a baseline", default=None)
    metric: str = doc("Name of the task's primary metric here: top1 or miou", default="top1")
    miou: float | None = doc("Segmentation: mean intersection over union, 0..1", default=None)
    miou_low: float | None = doc("Lower end of its 95 % bootstrap interval", default=None)
    miou_high: float | None = doc("Upper end of its 95 % bootstrap interval", default=None)
    class_iou: dict[str, float] = doc(
        "Segmentation: intersection over union by class", default_factory=dict
    )

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
