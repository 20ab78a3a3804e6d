"""Where in the user's code something happens while a network runs: a random draw, a branch.

torch is imported when a function is called, never when this module is.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM = (
    *("bernoulli", "bernoulli_", "native_dropout", "normal", "normal_", "uniform_", "rand"),
    *("rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "multinomial"),
    *("exponential_", "log_normal_", "cauchy_", "geometric_", "poisson", "rrelu_with_noise"),
)
BRANCHES = ("__bool__",)
OURS = Path(__file__).parents[1]


def _caller() -> str | None:
    """``file.py:line (the line)`` of the innermost frame that is neither torch's nor ours."""
    import torch

    home = Path(torch.__file__).parent
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if home not in file.parents and OURS not in file.parents and file.is_file():
            line = linecache.getline(str(file), frame.f_lineno).strip()
            return f"{file.name}:{frame.f_lineno} ({line})"
        frame = frame.f_back
    return None


def lines_of(
    network: nn.Module, example: tuple[Tensor, ...], names: Collection[str]
) -> tuple[str, ...]:
    """Lines of source code under which a run of the network calls one of some operations.

    Args:
        network: In eval mode.
        example: One batch.
        names: Of torch's operators (``aten``) or of methods of ``Tensor``.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: dict[str, None] = {}

    def note(name: str) -> None:
        if name in names:
            where = _caller()
            if where is not None:
                seen[where] = None

    class Functions(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            note(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            note(func.__name__.partition(".")[0])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Functions(), Operators():  # type: ignore[no-untyped-call]
        network(*example)
    return tuple(seen)
