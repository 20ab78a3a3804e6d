"""What is broken is said, and what is equal is not accused, through whole record files."""

from __future__ import annotations

import planted


def test_planted_models_are_told_through_record_files() -> None:
    shares = planted.run(rounds=8, images=4000, drop=0.02, cells=2, seed=1)
    assert shares[planted.ONE] == 1
    assert shares[planted.LOST] == 1
    assert shares[planted.WORSE] == 1
    assert shares["equal, accused"] == 0
    assert shares["broken, an answer"] == 0
    assert shares["wrong claims"] <= 0.25
    assert planted.failures({**shares, planted.LOST: 0.5}, 8) == [planted.LOST]
