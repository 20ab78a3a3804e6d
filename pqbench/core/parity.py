"""Does a converted model still compute what its source computes? Asked on real inputs, every time.

Two figures answer it. The signal-to-quantization-noise ratio (SQNR) is the power of the source's
outputs over the power of the difference, in dB: rounding differences between two float runtimes
leave 90 dB and more. Outputs that hardly depend on the input (a bias, an untrained network) can
hide a wrong weight behind 50 dB, so the same ratio is also taken with only what varies from sample
to sample as the signal. The share of samples with the same highest output shows what the difference
means for a classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pqbench.core.errors import ParityError

FLOAT_SQNR_DB = 40.0  # asked of float32 models; rounding alone leaves 90 dB and more
# A quantizer rounds a value near a tie the other way when its input differs in the last bits, and a
# noisy quantized model amplifies that: 16 to 26 dB between ONNX Runtime and OpenVINO, both
# computing quantizers in float, on MobileNetV3-Large. A wrong scale or axis leaves 0 dB and less.
QDQ_SQNR_DB = 8.0
SQNR_CAP_DB = 200.0
NEAR_TIE = 4.0
FLIPS_BY_CHANCE = 0.05
ROUNDING_DB = 90.0


@dataclass(frozen=True)
class Parity:
    """How close a converted model's outputs are to its source's, on the same inputs.

    Attributes:
        conversion: What was done, ``torch to onnx``, say.
        samples: Number of samples compared.
        max_abs_diff: Largest absolute difference of any output value, in the output's unit; None
            if an output is not finite or has another shape.
        sqnr_db: ``10 log10(sum ref^2 / sum (ref - got)^2)`` of the worst output, in dB, within
            +-200; None where ``max_abs_diff`` is.
        varying_sqnr_db: The same with ``ref`` minus its mean over the samples as the signal; None
            for a single sample, too.
        top1_agreement: Share of samples (0..1) with the same highest value along axis 1 of the
            first output; None if that output has no such axis.
        clear_flips: Samples whose highest value changed by more than rounding explains: by the
            source's own outputs, the two candidates lie further apart than four times the root
            mean square difference. A tie that falls the other way is no error.
        tolerance: ``min_sqnr_db``, ``min_varying_sqnr_db`` and ``min_agreement`` that were asked,
            and ``max_clear_flips``, what the last of them allows of these samples.
        passed: Finite, same shapes, both SQNR reached (the second is not asked where the first
            shows that all differences are rounding: 90 dB), and no more clear flips than
            :func:`allowed_flips`.
        problem: What is wrong, in one line; empty if passed.
    """

    conversion: str
    samples: int
    max_abs_diff: float | None
    sqnr_db: float | None
    varying_sqnr_db: float | None
    top1_agreement: float | None
    clear_flips: int
    tolerance: Mapping[str, float | None]
    passed: bool
    problem: str = ""


def sqnr_db(reference: npt.NDArray[Any], got: npt.NDArray[Any], varying: bool = False) -> float:
    """Signal power over the power of the difference, in dB, within +-200.

    Equal arrays give 200; a difference from an all-zero reference gives -200.

    Args:
        reference: Exact values, (n, ...).
        got: Values to judge, same shape.
        varying: Take only what differs from the mean over the n samples for the signal.
    """
    exact = reference.astype(np.float64)
    noise = float(np.sum((exact - got.astype(np.float64)) ** 2))
    signal = float(np.sum((exact - exact.mean(axis=0) if varying else exact) ** 2))
    if noise == 0.0:
        return SQNR_CAP_DB
    if signal == 0.0:
        return -SQNR_CAP_DB
    ratio = 10.0 * (math.log10(signal) - math.log10(noise))
    return max(-SQNR_CAP_DB, min(SQNR_CAP_DB, ratio))


def _flips(reference: npt.NDArray[Any], got: npt.NDArray[Any]) -> tuple[float | None, int]:
    """Agreement of the highest value along axis 1, over all positions; and clear flips."""
    if reference.ndim < 2 or reference.shape[1] < 2:
        return None, 0
    ours, theirs = reference.argmax(axis=1), got.argmax(axis=1)
    same = ours == theirs
    exact = reference.astype(np.float64)
    noise = math.sqrt(float(np.mean((exact - got.astype(np.float64)) ** 2)))
    best = np.take_along_axis(exact, np.expand_dims(ours, 1), 1).squeeze(1)
    chosen = np.take_along_axis(exact, np.expand_dims(theirs, 1), 1).squeeze(1)
    clear = (best - chosen) > NEAR_TIE * noise
    if clear.ndim > 1:  # dense prediction: a sample flips if more than half of its positions do
        clear = clear.reshape(len(clear), -1).mean(axis=1) > 0.5
    return float(same.mean()), int(clear.sum())


def allowed_flips(samples: int, min_agreement: float, quantized: bool) -> int:
    """Clear flips that are no reason to refuse a conversion.

    In float arithmetic the share that is asked for, of the samples at hand. A quantized model jumps
    by a whole step where a value rounds the other way, on few samples and far there: it is refused
    where so many flips are not explained by chance at the share asked for (binomial, 5 %); 3 of 32
    at 0.97.
    """
    share = 1.0 - min_agreement
    if not quantized or not 0.0 < share < 1.0:
        return math.floor(share * samples + 1e-9)
    tail, flips = 1.0, -1
    while tail > FLIPS_BY_CHANCE:
        flips += 1
        tail -= math.comb(samples, flips) * share**flips * (1.0 - share) ** (samples - flips)
    return flips


def compare(
    conversion: str,
    reference: Sequence[npt.NDArray[Any]],
    got: Sequence[npt.NDArray[Any]],
    min_sqnr_db: float,
    min_agreement: float,
    min_varying_sqnr_db: float | None = None,
    quantized: bool = False,
) -> Parity:
    """Compare the outputs of two models on the same inputs.

    Args:
        conversion: Name of what is checked, for messages.
        reference: The source's outputs, each (n, ...).
        got: The converted model's outputs, in the same order and shapes.
        min_sqnr_db: Least SQNR in dB, for each output.
        min_agreement: Least share of samples (0..1) without a clear flip.
        min_varying_sqnr_db: Least SQNR in dB of what depends on the input; None asks nothing.
        quantized: The source computes with quantizers, which amplify rounding.
    """
    samples = len(reference[0]) if reference else 0
    flips_allowed = allowed_flips(samples, min_agreement, quantized)
    tolerance = {
        "min_sqnr_db": min_sqnr_db,
        "min_varying_sqnr_db": min_varying_sqnr_db,
        "min_agreement": min_agreement,
        "max_clear_flips": float(flips_allowed),
    }

    def failed(problem: str) -> Parity:
        return Parity(conversion, samples, None, None, None, None, 0, tolerance, False, problem)

    if not samples:
        return failed("no outputs to compare")
    shapes, other = [a.shape for a in reference], [a.shape for a in got]
    if shapes != other:
        return failed(f"outputs have shapes {other} instead of {shapes}")
    if not all(np.isfinite(array).all() for array in reference):
        return failed("the source model's outputs are not finite on these inputs")
    if not all(np.isfinite(array).all() for array in got):
        return failed("the converted model's outputs are not finite")
    pairs = list(zip(reference, got, strict=True))
    ratio = min(sqnr_db(a, b) for a, b in pairs)
    varying = min(sqnr_db(a, b, varying=True) for a, b in pairs) if samples > 1 else None
    largest = max(float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0)) for a, b in pairs)
    agreement, clear = _flips(reference[0], got[0])
    problem = ""
    if ratio < min_sqnr_db:
        problem = f"SQNR is {ratio:.1f} dB, at least {min_sqnr_db:g} dB is asked"
    elif (
        varying is not None
        and min_varying_sqnr_db is not None
        and varying < min_varying_sqnr_db
        and ratio < ROUNDING_DB
    ):
        problem = (
            f"SQNR of what depends on the input is {varying:.1f} dB, at least "
            f"{min_varying_sqnr_db:g} dB is asked"
        )
    elif clear > flips_allowed:
        problem = (
            f"{clear} of {samples} samples change their highest output by more than rounding "
            f"explains, at most {flips_allowed} may (agreement of {min_agreement:g} is asked)"
        )
    return Parity(
        conversion=conversion,
        samples=samples,
        max_abs_diff=largest,
        sqnr_db=ratio,
        varying_sqnr_db=varying,
        top1_agreement=agreement,
        clear_flips=clear,
        tolerance=tolerance,
        passed=not problem,
        problem=problem,
    )


def check(parity: Parity) -> Parity:
    """Return ``parity`` if it passed.

    Raises:
        ParityError: It did not; the message carries the figures, the hint the likely cause.
    """
    if parity.passed:
        return parity
    figures = ""
    if parity.max_abs_diff is not None:
        figures = f" (largest difference {parity.max_abs_diff:.3g}"
        if parity.top1_agreement is not None:
            figures += f", same highest output on {parity.top1_agreement:.1%}"
        figures += f" of {parity.samples} samples)" if parity.top1_agreement is not None else ")"
    raise ParityError(
        f"{parity.conversion}: the converted model does not compute what its source does: "
        f"{parity.problem}{figures}",
        hint=_likely_cause(parity),
    )


def _likely_cause(parity: Parity) -> str:
    if parity.sqnr_db is None:
        return "look for data-dependent control flow, overflow in half precision, or lost outputs"
    if parity.sqnr_db < 3.0:
        return "weights or inputs are likely lost or swapped: check the order of the inputs"
    if parity.sqnr_db < 30.0:
        return "an operator is likely translated wrongly, or runs at lower precision than asked"
    return "the model amplifies rounding; if that is acceptable, lower the tolerance"
