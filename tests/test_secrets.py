"""No password, user or token of an address, and nothing from the environment, is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_sweep as tiny
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pqbench.app.shown import shown_config
from pqbench.app.sweep_state import command_of
from pqbench.core.secrets import mask, mask_text

SECRET = "s3cr3t-of-the-test"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:word@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host", "https://***@host"),
        ("http://me:wo/r?d@host/x", "http://***@host/x"),
        (
            "postgresql+psycopg2://me:p%40@h/db?sslmode=require&password=abc",
            "postgresql+psycopg2://***@h/db?sslmode=require&password=***",
        ),
        ("s3://b/k?X-Amz-Credential=a&X-Amz-Signature=b", "s3://b/k?X-Amz-Credential=***"
         "&X-Amz-Signature=***"),
        ("cannot reach 'http://a:b@c' and http://d:e@f/g", "cannot reach 'http://***@c' and "
         "http://***@f/g"),
        ("sqlite:////data/me@home.db", "sqlite:////data/me@home.db"),
        ("http://host:5000/?page=2", "http://host:5000/?page=2"),
        ("model=a compress=[prune] a@b", "model=a compress=[prune] a@b"),
    ],
)  # fmt: skip
def test_addresses_are_masked_by_structure(text: str, shown: str) -> None:
    assert mask_text(text) == shown
    assert mask_text(shown) == shown
    assert mask({"a": [text, 1, None]}) == {"a": [shown, 1, None]}


WORD = st.text("abcXYZ019-._~!$&()*+,;=%", min_size=1, max_size=20)


@given(WORD, WORD, st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "s3"]))
def test_no_user_or_password_survives(user: str, password: str, scheme: str) -> None:
    shown = mask_text(f"push to {scheme}://{user}:{password}@host.example:5000/db, please")
    assert shown == f"push to {scheme}://***@host.example:5000/db, please"


def test_values_of_the_environment_stay_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", SECRET)
    config = OmegaConf.create(
        {
            "direct": "${oc.env:A_TOKEN}",
            "within": "x/${oc.env:A_TOKEN}/y",
            "through": "${direct}",
            "node": {"list": ["${oc.env:A_TOKEN}", 1], "other": "${seed}"},
            "whole": "${node}",
            "seed": 3,
        }
    )
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    assert SECRET in str(plain)
    shown = shown_config(config, {str(k): v for k, v in plain.items()})
    assert SECRET not in str(shown)
    assert shown["direct"] == "${oc.env:A_TOKEN}"
    assert shown["node"] == {"list": ["${oc.env:A_TOKEN}", 1], "other": 3}
    assert OmegaConf.to_container(config, resolve=True) == plain  # the resolver is back


def test_command_of_a_sweep_holds_no_password() -> None:
    assert command_of(["tracking.uri=http://me:word@host"]) == ["tracking.uri=http://***@host"]


@pytest.mark.slow
def test_nothing_that_a_sweep_writes_holds_a_secret(tmp_path: Path) -> None:
    tiny.prepare(tmp_path)
    code, output = tiny.run(
        tmp_path,
        "compress=none",
        "backend=ort",
        "tracking=server",
        f"tracking.uri='http://me:{SECRET}@127.0.0.1:9/x?token={SECRET}'",
        "protocol.name=${oc.env:NAME}",
        "-m",
        NAME=SECRET,
    )
    assert code == 0, output
    assert SECRET not in output
    assert "pqbench.sync" in output
    assert list(tmp_path.rglob("multirun.yaml"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
