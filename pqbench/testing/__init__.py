"""Prove that a part of your own keeps its contract, before an experiment finds that it does not.

Each function builds small real inputs, uses every member of the part, and holds what the part
declares against what it does. It returns nothing, or raises :class:`BrokenContract` (an
``AssertionError``) that says what is wrong: put it in a test of yours.
"""

from pqbench.testing.backends import check_backend
from pqbench.testing.datasets import check_dataset
from pqbench.testing.models import check_model
from pqbench.testing.require import BrokenContract
from pqbench.testing.steps import check_step

__all__ = ["BrokenContract", "check_backend", "check_dataset", "check_model", "check_step"]
