"""Where results are tracked, as plain values."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pqbench.core.errors import ConfigError
from pqbench.core.secrets import mask_text

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
# Where a database listens whose URI does not say it.
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def sqlite_uri(file: Path) -> str:
    """SQLAlchemy's URI of a sqlite file; of a path's characters it takes only two otherwise."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def _check_uri(uri: str) -> None:
    """Refuse an address that no store has.

    Raises:
        ConfigError: Its kind is unknown to MLflow and its plugins, or its port is no number.
    """
    scheme = uri.partition("://")[0]
    if scheme.partition("+")[0] not in _SCHEMES:
        plugins = {point.name for point in entry_points(group="mlflow.tracking_store")}
        if scheme not in plugins:
            raise ConfigError(
                f"tracking.uri begins with {scheme}://, which is no kind of store",
                hint=f"it is one of {', '.join(_SCHEMES)}",
            )
    try:
        _ = urlsplit(uri).port
    except ValueError as error:
        raise ConfigError(
            f"tracking.uri: {error}", hint="write it as http://host:5000; in a password @ is %40"
        ) from error


@dataclass(unsafe_hash=True)  # not frozen: OmegaConf would make its node read-only
class TrackingSettings:
    """Where results are tracked beside the records on disk.

    Attributes:
        enabled: False keeps records on disk only.
        uri: MLflow tracking URI: ``http(s)://`` for a server, else a database URI. None takes
            ``sqlite:///<outputs>/mlflow.db``.
        experiment: Name of the MLflow experiment.
        artifact_root: Folder or URI of the artifacts of a new experiment. None takes
            ``<outputs>/mlartifacts``, or what the server decides.
        log_model: Also upload the files of the deployed model.
        timeout_s: Give up on one request to a server after this many seconds.
        outputs: Folder of the local store; relative to the current folder.
        onnx_flavour: Also log a deployed ONNX model with the flavour ``mlflow.onnx``.
        registered_model: Name under which MLflow's registry keeps it; needs ``onnx_flavour``.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "pqbench"
    artifact_root: str | None = None
    log_model: bool = True
    timeout_s: float = 5.0
    outputs: str = "outputs"
    onnx_flavour: bool = False
    registered_model: str | None = None

    def __post_init__(self) -> None:
        """Refuse what MLflow would refuse only after the work is done."""
        if not self.experiment.strip():
            raise ConfigError("tracking.experiment is empty", hint="give the experiment a name")
        if self.registered_model is not None and not self.onnx_flavour:
            raise ConfigError(
                f"tracking.registered_model={self.registered_model} without a model to register",
                hint="set tracking.onnx_flavour=true as well",
            )
        if self.timeout_s <= 0:
            raise ConfigError(f"tracking.timeout_s={self.timeout_s} is not possible", "above 0")
        if self.uri is not None and ("://" not in self.uri or self.uri.startswith("file:")):
            raise ConfigError(
                f"tracking.uri={self.uri} is a folder, which MLflow no longer takes as a store",
                hint="use sqlite:////absolute/path/mlflow.db, http://host:port, or null",
            )
        if self.uri is not None:
            _check_uri(self.uri)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys ``tracking`` and ``outputs`` of a resolved configuration.

        Raises:
            ConfigError: An unknown key, or an invalid value.
        """
        given = dict(config.get("tracking", {}))
        unknown = set(given) - {f.name for f in fields(cls)}
        if unknown:
            raise ConfigError(f"tracking has no key {sorted(unknown)[0]}")
        given.setdefault("outputs", config.get("outputs", "outputs"))
        return cls(**given)

    @property
    def is_server(self) -> bool:
        """Whether the store is reached over HTTP."""
        return self.uri is not None and self.uri.startswith(("http://", "https://"))

    @property
    def database_address(self) -> tuple[str, int] | None:
        """Host and port of a database on the network; None for a server or a local file."""
        parts = urlsplit(self.tracking_uri)
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
        if self.is_server or not parts.hostname or port is None:
            return None
        return parts.hostname, port

    @property
    def folder(self) -> Path:
        """Folder of the local store, absolute."""
        return Path(self.outputs).expanduser().absolute()

    @property
    def tracking_uri(self) -> str:
        """The URI in force, with an absolute path for the local store."""
        if self.uri is not None:
            return self.uri.rstrip("/") if self.is_server else self.uri
        return sqlite_uri(self.folder / "mlflow.db")

    @property
    def database_file(self) -> Path | None:
        """The sqlite file, absolute; None for any other store."""
        prefix = "sqlite:///"
        if not self.tracking_uri.startswith(prefix):
            return None
        return Path(unquote(self.tracking_uri.removeprefix(prefix))).absolute()

    @property
    def artifact_folder(self) -> str | None:
        """Where a new experiment keeps artifacts: an absolute path or URI; None: the server's."""
        if self.artifact_root is None:
            return None if self.is_server else str(self.folder / "mlartifacts")
        if "://" in self.artifact_root:
            return self.artifact_root
        return str(Path(self.artifact_root).expanduser().absolute())

    @property
    def artifact_location(self) -> str | None:
        """The same as MLflow wants it: of a path it decodes percent signs."""
        folder = self.artifact_folder
        return folder if folder is None or "://" in folder else folder.replace("%", "%25")

    def sync_command(self, folder: Path | str) -> str:
        """The command that pushes what this store lacks of the records below a folder."""
        words = ["python", "-m", "pqbench.sync", str(folder)]
        if self.uri is not None:
            words += ["--uri", self.shown_uri]
        elif self.outputs != "outputs":
            words += ["--outputs", self.outputs]
        if self.experiment != "pqbench":
            words += ["--experiment", self.experiment]
        return shlex.join(words)

    @property
    def shown_uri(self) -> str:
        """The URI in force without user, password and tokens, fit for logs and files."""
        return mask_text(self.tracking_uri)
