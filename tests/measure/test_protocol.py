"""Protocol settings and the YAML files that carry them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from pqbench.core.errors import ConfigError
from pqbench.measure.protocol import MeasureProtocol, keys

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize("name", ["quick", "default", "paper"])
def test_protocol_files_have_exactly_the_keys(name: str, tmp_path: Path) -> None:
    (tmp_path / "root.yaml").write_text(f"defaults: [protocol: {name}, _self_]\n")
    (tmp_path / "protocol").symlink_to(CONF / "protocol")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        node = OmegaConf.to_container(compose("root")["protocol"])
    assert isinstance(node, dict)
    assert set(node) == set(keys())
    protocol = MeasureProtocol(**{str(k): v for k, v in node.items()})
    assert protocol.name == name
    if name == "default":
        assert protocol == MeasureProtocol()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_sizes", []),
        ("batch_sizes", [0]),
        ("batch_sizes", [1.5]),
        ("batch_sizes", [4, 4]),
        ("min_pairs", 0),
        ("max_pairs", 1),
        ("block_s", 0),
        ("max_foreign_share", 0),
        ("settle_s", -1),
    ],
)
def test_protocol_refuses_what_cannot_be_meant(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"protocol.{key}|protocol.min_pairs|max_pairs"):
        MeasureProtocol(**{key: value})  # type: ignore[arg-type]
