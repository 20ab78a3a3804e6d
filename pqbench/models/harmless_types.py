"""Types that checkpoints hold beside tensors and whose construction runs nobody's code.

``torch.load(weights_only=True)`` calls nothing but what is listed. Listed here are plain containers
and values, configurations, and torch's own layers, optimizers and schedulers. Types of libraries
that need not be installed are read as inert stand-ins.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import inspect
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any


class Bag(dict[Any, Any]):
    """Stands in for a library's dictionary with attributes."""


class Inert:
    """Stands in for a library's object whose content is of no interest."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs

    def __setstate__(self, state: object) -> None:
        """Forget it."""


DICTIONARIES = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "addict.Dict",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "box.box.Box",
)
OBJECTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "transformers.trainer_utils.IntervalStrategy",
    "timm.utils.summary.AverageMeter",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
PLAIN: tuple[Any, ...] = (
    argparse.Namespace,
    types.SimpleNamespace,
    collections.defaultdict,
    collections.deque,
    collections.Counter,
    collections.OrderedDict,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    datetime.timezone,
    functools.partial,  # made, never called
    *(dict, list, tuple, str, int, float, bool, bytes, object),
    set,
    frozenset,
    slice,
    range,
    complex,
    bytearray,
)


def harmless(trusted: Sequence[type] = ()) -> list[Any]:
    """The list for ``torch.serialization.safe_globals``.

    Args:
        trusted: Module classes that were imported already, taken unless they restore themselves by
            a method of their own.
    """
    from torch import nn

    own = [
        cls
        for cls in trusted
        if issubclass(cls, nn.Module)
        and cls.__setstate__ is nn.Module.__setstate__
        and cls.__reduce__ is object.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
    ]
    return [
        *PLAIN,
        *_paths(),
        *_numpy(),
        *_torch(),
        *_omegaconf(),
        *((Bag, name) for name in DICTIONARIES),
        *((Inert, name) for name in OBJECTS),
        *own,
    ]


def _paths() -> list[Any]:
    """Paths, those of the other system too; Python 3.13 keeps them in another module."""
    pure = (pathlib.PurePosixPath, pathlib.PureWindowsPath)
    kinds = {
        "PosixPath": pure[0],
        "WindowsPath": pure[1],
        "PurePosixPath": pure[0],
        "PureWindowsPath": pure[1],
        "Path": pure[0],
        "PurePath": pure[0],
    }
    return [
        (kind, f"{module}.{name}")
        for name, kind in kinds.items()
        for module in ("pathlib", "pathlib._local")
    ]


def _numpy() -> list[Any]:
    import codecs

    import numpy as np

    multiarray = np._core.multiarray  # type: ignore[attr-defined]  # private, as in its pickles
    out: list[Any] = [np.dtype, np.ndarray, codecs.encode]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        out += [(multiarray.scalar, f"{module}.scalar")]
        out += [(multiarray._reconstruct, f"{module}._reconstruct")]
    return out + [cls for cls in vars(np.dtypes).values() if inspect.isclass(cls)]


def _torch() -> list[Any]:
    """Layers, losses, optimizers, schedulers and their like, of torch itself."""
    import torch

    schedulers = torch.optim.lr_scheduler
    layers = [c for c in vars(torch.nn).values() if _is(c, torch.nn.Module)]
    optimizers = [c for c in vars(torch.optim).values() if _is(c, torch.optim.Optimizer)]
    rates = [c for c in vars(schedulers).values() if _is(c, schedulers.LRScheduler)]
    inner = [torch.nn.modules.linear.NonDynamicallyQuantizableLinear]
    return [*layers, *inner, *optimizers, *rates, schedulers.ReduceLROnPlateau]


def _is(value: object, base: type) -> bool:
    return inspect.isclass(value) and issubclass(value, base)


def _omegaconf() -> list[Any]:
    import omegaconf
    from omegaconf import base, nodes

    kinds = [c for c in vars(nodes).values() if _is(c, base.Node) and not inspect.isabstract(c)]
    return [
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        base.Metadata,
        base.ContainerMetadata,
        (typing.Any, "typing.Any"),
        *kinds,
    ]


def bag_items(value: Any) -> Mapping[Any, Any] | None:
    """The items of a dictionary or namespace out of a checkpoint; None for anything else.

    A configuration's interpolations are left alone: resolving them could run code.
    """
    import omegaconf

    if isinstance(value, omegaconf.DictConfig):
        plain: Any = omegaconf.OmegaConf.to_container(value, resolve=False, throw_on_missing=False)
        return plain if isinstance(plain, dict) else None
    if isinstance(value, dict):
        return value
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        return vars(value)
    return None
