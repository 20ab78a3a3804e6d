"""Structured pruning of real architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUILDERS, make_torch  # type: ignore[attr-defined]
from torch import nn

from pqbench.artifact import Artifact
from pqbench.checkpoint import load_network
from pqbench.compress.base import StepData
from pqbench.compress.prune import CRITERIA, Prune
from pqbench.errors import ConfigError, UnsupportedError
from pqbench.inputs import PreparedSplit
from pqbench.networks import (
    feed_tensors,
    flush_subnormals,
    output_layers,
    parameter_count,
    recalibrate_batch_norm,
)
