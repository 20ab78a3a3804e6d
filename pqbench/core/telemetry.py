"""The libraries' telemetry, off. Nothing is sent anywhere, and no device id is left in the home."""

from __future__ import annotations

import os
from collections.abc import Mapping

OFF: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, which else writes ~/.cache/Microsoft
    "CI": "true",  # OpenVINO (NNCF sends through it) knows no other switch; NNCF_CI is not enough
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Environment variables that switch it off; each library reads them when it is imported."""


def switch_off() -> None:
    """Switch the libraries' telemetry off in this process and its children.

    Call it before a library is imported: at a program's start, and where classes that import one
    are made.
    """
    os.environ.update(OFF)
