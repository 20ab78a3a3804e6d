"""Small parts of a session process: inputs, subnormals, compilation, the profile's sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from session_backends import write_split

from pqbench.core.errors import PqbenchError
from pqbench.core.split import PreparedSplit
from pqbench.measure import recompile
from pqbench.measure.pool import make_pool, views
from pqbench.measure.profile import explain

ROOT = Path(recompile.__file__).parents[2]


@pytest.fixture
def split(tmp_path: Path) -> PreparedSplit:
    return PreparedSplit.load(write_split(tmp_path / "split", count=50))


def test_pool_holds_real_normalised_inputs_within_its_limit(split: PreparedSplit) -> None:
    one = 3 * 8 * 8 * 4
    pool = make_pool(split, largest=4, limit_mb=10 * one / 2**20, seed=0)
    assert pool["input"].shape == (10, 3, 8, 8)
    everything = split.feed(slice(None))["input"]
    assert all((everything == image).all(axis=(1, 2, 3)).any() for image in pool["input"])


def test_pool_of_a_split_smaller_than_a_batch_repeats_it(split: PreparedSplit) -> None:
    pool = make_pool(split, largest=64, limit_mb=1, seed=0)
    assert len(pool["input"]) == 64


def test_views_rotate_through_contiguous_batches_without_copies(split: PreparedSplit) -> None:
    pool = make_pool(split, largest=16, limit_mb=1, seed=0)
    batches = views(pool, 16)
    assert len(batches) == 3
    for batch in batches:
        assert batch["input"].flags["C_CONTIGUOUS"]
        assert np.shares_memory(batch["input"], pool["input"])


DENORMALS = """
import threading
from pqbench.measure.denormals import flush_denormals
worked = flush_denormals()
import numpy as np
def product(out):
    out.append(float((np.full(8, 1e-30, np.float32) * np.float32(1e-12)).max()))
out = []
thread = threading.Thread(target=product, args=(out,))
thread.start(); thread.join(); product(out)
print(worked, out)
"""


def test_flush_denormals_reaches_threads_made_later() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DENORMALS],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.strip()
    if result.startswith("False"):
        pytest.skip("subnormals cannot be flushed on this platform")
    assert result == "True [0.0, 0.0]"


def test_recompilation_is_refused_and_named() -> None:
    recompile.refuse(0, 4)
    with pytest.raises(PqbenchError, match=r"3 graph\(s\) were compiled .* batch size 4"):
        recompile.refuse(3, 4)


def test_compilations_counts_what_torch_compiles() -> None:
    torch = pytest.importorskip("torch")
    compiled = torch.compile(lambda x: x * 2, backend="eager", dynamic=False)
    compiled(torch.ones(2))
    before = recompile.compilations()
    compiled(torch.ones(2))
    assert recompile.compilations() == before
    compiled(torch.ones(3))
    assert recompile.compilations() == before + 1


def test_explain_names_what_got_slower_and_what_stays_in_float() -> None:
    sentence = explain(
        {"QLinearConv": 1.0, "DequantizeLinear": 4.0},
        {"Conv": 4.0},
        int8_share=0.25,
        float_reasons={"Conv left in float": 30},
    )
    assert "5 ms in kernels against 4 ms" in sentence
    assert "more in DequantizeLinear (+4 ms)" in sentence
    assert "less in Conv (-4 ms)" in sentence
    assert "25% of the quantizable operators" in sentence
    assert "30 x Conv left in float" in sentence


def test_explain_without_a_baseline_names_the_largest() -> None:
    assert explain({"Conv": 3.0, "Relu": 1.0}, {}).startswith("4 ms in kernels, most in Conv")
    assert explain({}, {}) == ""
