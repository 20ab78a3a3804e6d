import json
import shlex
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.core.errors import ConfigError
from pqbench.tracking import links
from pqbench.tracking.settings import TrackingSettings


def test_settings_local_store_lies_under_outputs(tmp_path):
    settings = TrackingSettings.from_config({"tracking": {}, "outputs": str(tmp_path / "out")})
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/out/mlflow.db"
    assert settings.artifact_location == f"{tmp_path}/out/mlartifacts"
    assert not settings.is_server


def test_settings_relative_outputs_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TrackingSettings().tracking_uri == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_settings_server_chooses_its_artifacts():
    settings = TrackingSettings(uri="http://127.0.0.1:5000/")
    assert settings.is_server
    assert settings.tracking_uri == "http://127.0.0.1:5000"
    assert settings.artifact_location is None
    assert settings.database_file is None


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mlruns"])
def test_settings_refuse_a_file_store(uri):
    with pytest.raises(ConfigError, match="no longer takes"):
        TrackingSettings(uri=uri)


@pytest.mark.parametrize("bad", [{"experiment": " "}, {"timeout_s": 0}, {"unknown": 1}])
def test_settings_refuse_what_cannot_be_meant(bad):
    with pytest.raises(ConfigError):
        TrackingSettings.from_config({"tracking": bad})


def test_settings_hide_a_password():
    settings = TrackingSettings(uri="https://me:secret@example.org:5000/x")
    assert "secret" not in settings.shown_uri
    assert settings.shown_uri.startswith("https://***@example.org:5000")
    assert "secret" in settings.tracking_uri


def test_links_command_serves_this_machine_only(tmp_path):
    settings = TrackingSettings(outputs=str(tmp_path / "my outputs"))
    words = shlex.split(links.ui_command(settings) or "")
    assert words[:2] == ["mlflow", "ui"]
    assert words[words.index("--backend-store-uri") + 1] == settings.tracking_uri
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert links.ui_command(TrackingSettings(uri="http://127.0.0.1:5000")) is None


@given(st.lists(st.text(alphabet="0123456789abcdef", min_size=32, max_size=32), max_size=20))
def test_links_compare_url_round_trips(run_ids):
    url = links.compare_url("http://127.0.0.1:5000", "7", run_ids)
    assert not set('[]", ') & set(url)
    fragment = urlsplit(urlsplit(url).fragment)
    query = parse_qs(fragment.query)
    assert fragment.path == "/compare-runs"
    assert json.loads(query["runs"][0]) == run_ids
    assert json.loads(query["experiments"][0]) == ["7"]


def test_links_runs_url_points_to_the_table():
    base = links.base_url(TrackingSettings())
    classic = "workflowType=machine_learning"  # not the pages for language models
    runs = f"http://127.0.0.1:5000/#/experiments/1/runs?{classic}"
    assert links.runs_url(base, "1") == runs
    assert links.runs_url(base, "1", view="ab12") == f"{runs}&viewStateShareKey=ab12"
    query = urlsplit(urlsplit(links.runs_url(base, "1", "2026 a&b")).fragment).query
    assert parse_qs(query)["searchFilter"] == ['tags.sweep = "2026 a&b"']
    assert links.runs_url(base, "1", "it's") == runs  # MLflow cannot search for it
    others = (links.run_url(base, "1", "a"), links.compare_url(base, "1", ["a"]))
    assert all(classic in url for url in others)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        (None, None),
        ("http://host:5000", None),
        ("sqlite:////tmp/mlflow.db", None),
        ("postgresql:///mlflow", None),
        ("postgresql+psycopg://user:word@host/mlflow", ("host", 5432)),
        ("mysql://user@host:33/mlflow", ("host", 33)),
    ],
)
def test_database_address_is_that_of_a_database_on_the_network(uri, address):
    assert TrackingSettings(uri=uri).database_address == address
