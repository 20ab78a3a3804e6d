"""Static INT8 with MNN's own offline quantizer, for backend ``mnn``.

https://mnn-docs.readthedocs.io/en/latest/tools/quant.html
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pqbench.compress.calibration import Calibration, check_size, draw
from pqbench.compress.recipe import FORWARD
from pqbench.core.artifact import Artifact, LineageEntry, Representation
from pqbench.core.errors import ConfigError, UnavailableError, UnsupportedError
from pqbench.core.step import Kind, Step, StepData

MNN_FILE = "model.mnn"
METHODS = ("admm", "ema")
# The package's own command, ``mnnquant``, passes three words instead of the list that this takes,
# and aborts.
_PROGRAM = "import sys, _tools; _tools.mnnquant(['mnnquant', *sys.argv[1:]])"


@dataclass(frozen=True)
class MnnInt8(Step):
    """Quantize convolutions; weights per output channel, activations per tensor.

    The quantizer reads its samples from text files, 10 bytes a number: 1.5 MB for an image of
    224 px.

    Attributes:
        calibration_size: Training images to calibrate with.
        method: How an activation's range follows from its values: ``admm`` (alternating directions,
            Leng et al. 2018), or ``ema``, the moving average of each image's extremes. MNN 3.6.1's
            ``ema`` makes ResNet-18 answer one class, whatever it is fed; its third, KL, ends in a
            segmentation fault there.
    """

    kind: ClassVar[Kind] = "quantize"
    takes: ClassVar[tuple[Representation, ...]] = ("mnn",)
    final: ClassVar[str] = "nothing is made of an MNN file any more"
    why_not: ClassVar[Mapping[Representation, str]] = dict.fromkeys(
        FORWARD, "MNN's quantizer works on MNN files, that nothing else loads"
    )

    calibration_size: int = 100
    method: str = "admm"

    def __post_init__(self) -> None:
        check_size(self.calibration_size)
        if self.method not in METHODS:
            raise ConfigError(
                f"mnn_int8.method '{self.method}' is unknown",
                hint=f"choose one of {', '.join(METHODS)}",
            )

    def apply(self, artifact: Artifact, data: StepData, workdir: Path) -> Artifact:
        """Calibrate, quantize, save ``model.mnn``; in a process of its own, which may abort.

        Raises:
            UnavailableError: MNN is not installed.
            UnsupportedError: The quantizer refuses the model, or quantizes nothing.
        """
        if importlib.util.find_spec("MNN") is None:
            raise UnavailableError("MNN is not installed", hint="pip install MNN")
        start = time.perf_counter()
        calibration = draw(artifact, data, self.calibration_size)
        target = (workdir / MNN_FILE).absolute()
        source = artifact.path.absolute()
        with TemporaryDirectory(dir=workdir.absolute()) as scratch:
            settings = self._write(artifact, calibration, Path(scratch))
            done = subprocess.run(
                [sys.executable, "-c", _PROGRAM, str(source), str(target), str(settings)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                cwd=scratch,  # the tool may leave files in its current folder
            )
        if done.returncode != 0 or not target.is_file():
            lines = [s.strip() for s in (done.stdout + done.stderr).splitlines() if s.strip()]
            raise UnsupportedError(
                f"MNN's quantizer ends with status {done.returncode}: "
                f"{lines[-1][:300] if lines else 'no reason given'}",
                hint="ort_int8 and nncf_int8 are other tools",
            )
        target.with_name(f"{MNN_FILE}.json").unlink(missing_ok=True)  # the tool's notes
        if target.stat().st_size >= artifact.path.stat().st_size:
            raise UnsupportedError(
                "mnn_int8 found nothing to quantize in this model", hint="it needs convolutions"
            )
        entry = LineageEntry(
            action="mnn_int8",
            seconds=time.perf_counter() - start,
            config=asdict(self),
            details=calibration.details(),
        )
        return artifact.derive(workdir, MNN_FILE, entry)

    def _write(self, artifact: Artifact, calibration: Calibration, folder: Path) -> Path:
        """The samples, a folder each, and the tool's settings."""
        samples = folder / "samples"
        for position, sample in enumerate(calibration):
            here = samples / f"{position:05d}"
            here.mkdir(parents=True)
            for name, array in sample.items():
                text = " ".join(f"{value:.7g}" for value in array.ravel().tolist())
                (here / f"{name}.txt").write_text(text, encoding="ascii")
            inputs = [{"name": k, "shape": list(v.shape)} for k, v in sample.items()]
            described = {"inputs": inputs, "outputs": list(artifact.outputs)}
            (here / "input.json").write_text(json.dumps(described), encoding="utf-8")
        settings = {
            "path": f"{samples}/",
            "input_type": "sequence",
            "used_sample_num": len(calibration),
            "feature_quantize_method": self.method.upper(),
            "weight_quantize_method": "MAX_ABS",
            "batch_size": 1,
        }
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder / "settings.json"
