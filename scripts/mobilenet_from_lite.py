"""A MobileNetV3-Large that starts from the strongest channels of an EfficientNet-Lite0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# Parts of MobileNetV3-Large (torchvision's features) by the block of Lite0 that each starts from,
# and which of that block's expanded channels: 0 takes the strongest, 1 those that are next.
ORIGINS = {
    **{1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (3, 0), 5: (4, 0), 6: (4, 1), 7: (5, 0), 8: (6, 0)},
    **{9: (7, 0), 10: (7, 1), 11: (8, 0), 12: (9, 0), 13: (11, 0), 14: (12, 0), 15: (13, 0)},
}
OPEN = 0.75  # what a squeeze-and-excite gate lets through at the start
STEEP = 3.0  # hard-swish of STEEP x, divided by STEEP, is nearer to ReLU than hard-swish is


def symmetric_padding(network: nn.Module) -> None:
    """Pad alike on all sides, as PyTorch's networks do and TensorFlow's do not."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "static_padding"):
            module.static_padding = nn.Identity()
            module.padding = (module.kernel_size[0] // 2, module.kernel_size[1] // 2)


def strength(block: Any) -> Tensor:
    """How much each expanded channel of a block of Lite0 can give to what the block gives."""
    weight = block._project_conv.weight[:, :, 0, 0] * block._bn2.weight[:, None]
    norm = block._bn1
    return weight.norm(dim=0) * (norm.weight.abs() + norm.bias.abs())


def _fill(norm: Any, source: Any, rows: Tensor, scale: float = 1.0) -> None:
    """Copy some channels of a BatchNorm, what they give multiplied by ``scale``."""
    norm.weight.copy_(source.weight[rows] * scale)
    norm.bias.copy_(source.bias[rows] * scale)
    norm.running_mean.copy_(source.running_mean[rows])
    norm.running_var.copy_(source.running_var[rows])


def _copy_block(block: Any, origin: Any, given: Tensor, kept: Tensor, out: Tensor) -> None:
    """One inverted residual from another.

    Args:
        block: torchvision's.
        origin: Lite0's.
        given: Channels of the input that the student has.
        kept: Expanded channels that it takes.
        out: Channels of the output that it takes.
    """
    parts = list(block.block)
    steep = STEEP if isinstance(parts[0][2], nn.Hardswish) else 1.0
    scale = 1.0
    if hasattr(origin, "_expand_conv"):
        conv, norm, _ = parts.pop(0)
        conv.weight.copy_(origin._expand_conv.weight[kept][:, given])
        _fill(norm, origin._bn0, kept, steep)
        scale = 1 / steep
    conv, norm, _ = parts.pop(0)
    size, wide = conv.kernel_size[0], origin._depthwise_conv.kernel_size[0]
    edge = (wide - size) // 2
    weight = origin._depthwise_conv.weight[kept]
    conv.weight.copy_(weight[:, :, edge : wide - edge, edge : wide - edge] * scale)
    _fill(norm, origin._bn1, kept, steep)
    scale = 1 / steep
    if len(parts) == 2:
        gate = parts.pop(0)
        nn.init.normal_(gate.fc2.weight, std=0.01)
        nn.init.constant_(gate.fc2.bias, 6 * OPEN - 3)
        scale /= OPEN
    conv, norm = parts.pop(0)
    conv.weight.copy_(origin._project_conv.weight[out][:, kept] * scale)
    _fill(norm, origin._bn2, out)


@torch.no_grad()
def copy_parts(teacher: nn.Module, student: nn.Module) -> Tensor:
    """Fill the student with what fits it of the teacher, after symmetric padding.

    The student's images are normalised as ImageNet's, the teacher's by 127 and 128: the first
    filters are scaled accordingly, and BatchNorm learns the rest. Random are what follows the last
    block: the last convolution and the first linear layer. The head is the teacher's.

    Args:
        teacher: An EfficientNet-Lite0.
        student: A torchvision MobileNetV3-Large with a head of as many classes.

    Returns:
        Which of the teacher's 192 channels at 7 x 7 are the student's 160.
    """
    whole, new = _any(teacher), _any(student)
    first = strength(whole._blocks[0]).argsort(descending=True)[:16]
    conv, norm, _ = new.features[0]
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    conv.weight.copy_(whole._conv_stem.weight[first] * deviation / 0.501961)
    _fill(norm, whole._bn0, first, STEEP)
    reading = whole._blocks[12]._expand_conv.weight[:, :, 0, 0].norm(dim=0)
    final = (reading * whole._blocks[11]._bn2.weight.abs()).argsort(descending=True)[:160]
    for part, (number, turn) in ORIGINS.items():
        origin, block = whole._blocks[number], new.features[part]
        expanded = block.block[-1][0].in_channels
        ranked = strength(origin).argsort(descending=True)
        kept = first if number == 0 else ranked[turn * len(ranked) // 2 :][:expanded]
        given = final if number > 11 else torch.arange(origin._block_args.input_filters)
        out = final if number >= 11 else torch.arange(origin._project_conv.out_channels)
        _copy_block(block, origin, given, kept, out)
    new.features[1].block[0][0].weight.div_(STEEP)
    new.classifier[3].load_state_dict(whole._fc.state_dict())
    return final


def _any(network: nn.Module) -> Any:
    return network
