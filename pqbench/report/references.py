r"""The literature behind what was measured: which works a report cites, and their BibTeX entries.

In texts a citation is written as pandoc does, ``[@holm1979]``; :func:`for_latex` turns it into
``\cite`` and :func:`plain` drops it. ``references.bib`` beside this module has all entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pqbench.core.record import Record
from pqbench.report.escape import latex
from pqbench.report.names import step_name

_LIBRARY = Path(__file__).with_name("references.bib")
_MARKER = re.compile(r" ?\[(@[\w:-]+(?:; @[\w:-]+)*)\]")
_NNCF, _ORT, _TORCH = "kozlov2020nncf", "onnxruntime", "paszke2019pytorch"
_INT8 = "jacob2018quantization"
_TRAINED = ("loshchilov2019adamw", "loshchilov2017sgdr")

STEPS: dict[str, tuple[str, tuple[str, ...]]] = {  # class: what it does, works
    "Prune": ("whole channels are removed by Torch-Pruning", ("fang2023depgraph",)),
    "PruneUnstructured": ("single weights are set to zero", ("han2015learning",)),
    "PruneMasked": (
        "single weights are masked, and the masks kept",
        ("han2015learning",),
    ),
    "PruneOnnx": ("weights of the ONNX file are set to zero", ("han2015learning",)),
    "PruneOnnxChannels": (
        "whole channels are removed from the ONNX file, and what reads the others is fitted anew",
        ("fang2023depgraph", "he2017channel"),
    ),
    "LowRank": (
        "layers are replaced by two thinner ones, from their singular values",
        ("denton2014exploiting", "zhang2016accelerating"),
    ),
    "Finetune": ("the network is trained on the training split with AdamW", _TRAINED),
    "Sparsify": ("the network is trained while whole channels are drawn to zero", _TRAINED),
    "NncfInt8": ("static INT8 quantization by NNCF", (_NNCF, _INT8)),
    "NncfAccuracyInt8": ("static INT8 quantization by NNCF under a limit of the drop", (_NNCF,)),
    "NncfQat": ("quantization-aware training with NNCF", (_NNCF, _INT8)),
    "NncfWeights": ("compression of the weights by NNCF", (_NNCF,)),
    "OrtInt8": ("static INT8 quantization by ONNX Runtime", (_ORT, _INT8)),
    "PartialInt8": (
        "static INT8 quantization by ONNX Runtime in the blocks where it pays",
        (_ORT, _INT8),
    ),
    "OrtDynamic": ("dynamic INT8 quantization by ONNX Runtime", (_ORT,)),
    "TrtEntropyInt8": ("INT8 by TensorRT's entropy calibration", ("tensorrt", "wu2020integer")),
    "ExecutorchInt8": (
        "static INT8 quantization by PyTorch's export flow with XNNPACK's quantizer",
        ("executorch", _INT8),
    ),
    "LitertInt8": (
        "static INT8 quantization by LiteRT's own quantizer",
        ("litert", _INT8),
    ),
    "ModeloptInt8": (
        "static INT8 quantization by NVIDIA's Model Optimizer",
        ("modelopt", "wu2020integer"),
    ),
    "AimetInt8": ("static INT8 quantization by AIMET", ("siddegowda2022aimet", _INT8)),
    "MnnInt8": ("static INT8 quantization by MNN's own quantizer", ("jiang2020mnn", _INT8)),
    "Pt2eInt8": ("static INT8 quantization by PyTorch's export flow", (_TORCH, _INT8)),
    "TorchDynamic": ("dynamic INT8 quantization by PyTorch", (_TORCH,)),
    "Fp16": ("weights in half precision", ()),
    "Sensitivity": ("each layer compressed alone, as a scan", ("li2017pruning",)),
}
CRITERIA = {  # in words, works
    "magnitude_l1": ("the L1 norm", "li2017pruning"),
    "magnitude_l2": ("the L2 norm", "li2017pruning"),
    "lamp": ("layer-adaptive magnitude", "lee2021lamp"),
    "bn_scale": ("the scale of batch normalization", "liu2017slimming"),
    "fpgm": ("the distance from the geometric median", "he2019fpgm"),
    "output_change": ("the first-order change of the outputs", "molchanov2019importance"),
    "taylor": ("a first-order Taylor expansion", "molchanov2019importance"),
    "hessian": ("a diagonal Hessian", "lecun1990obd"),
    "group_norm": ("the norm of each group of weights", "fang2023depgraph"),
}
PENALTIES = {"group_norm": "fang2023depgraph", "bn_scale": "liu2017slimming"}
RANGES = {  # how a quantizer finds the range of activations
    "minmax": ("the least and greatest values", ()),
    "mean_minmax": ("the mean least and greatest values of the images", ()),
    "entropy": ("the least relative entropy", ("wu2020integer",)),
    "percentile": ("a percentile of the values", ("wu2020integer",)),
    "max": ("the greatest absolute value", ("wu2020integer",)),
    "sqnr": ("the least noise of rounding and clipping together", ("siddegowda2022aimet",)),
}
MODELS = {
    "bert": "wang2020minilm",
    "densenet121": "huang2017densenet",
    "efficientnet_b0": "tan2019efficientnet",
    "efficientnet_lite0": "tan2019efficientnet",
    "efficientnet_lite1": "tan2019efficientnet",
    "efficientnet_lite2": "tan2019efficientnet",
    "fcn_resnet50": "long2015fcn",
    "lstm": "hochreiter1997lstm",
    "mobilenetv2": "sandler2018mobilenetv2",
    "mobilenetv3": "howard2019mobilenetv3",
    "mobilenetv3_small": "howard2019mobilenetv3",
    "resnet18": "he2016resnet",
    "resnet20": "he2016resnet",
    "resnet20_64": "he2016resnet",
    "resnet34": "he2016resnet",
    "resnet50": "he2016resnet",
    "squeezenet1_1": "iandola2016squeezenet",
    "tf_mobilenetv3_small": "howard2019mobilenetv3",
    "vit_b_16": "dosovitskiy2021vit",
}
DATASETS = {
    "camvid": "brostow2009camvid",
    "cifar10": "krizhevsky2009cifar",
    "cifar100": "krizhevsky2009cifar",
    "elpv": "deitsch2019elpv",
    "fashion_mnist": "xiao2017fashion",
    "imagenet": "deng2009imagenet",
    "imagenet_mini": "deng2009imagenet",
    "imagenette": "howard2019imagenette",
    "imagewoof": "howard2019imagenette",
    "imdb": "maas2011imdb",
    "mnist5k": "lecun1998mnist",
    "sst2": "socher2013sst",
}
_BACKENDS = (  # start of the name; the first that fits
    ("ort", "onnxruntime"),
    ("onnxruntime", "onnxruntime"),
    ("openvino", "openvino"),
    ("tensorrt", "tensorrt"),
    ("ncnn", "ncnn"),
    ("mnn", "jiang2020mnn"),
    ("executorch", "executorch"),
    ("litert", "litert"),
    ("torch_compile", "ansel2024pytorch2"),
    ("torch_tensorrt", "torchtensorrt"),
    ("torch", "paszke2019pytorch"),
)


def cite(*keys: str) -> str:
    """A citation with the space before it; empty without keys."""
    different = dict.fromkeys(keys)
    return f" [{'; '.join(f'@{key}' for key in different)}]" if different else ""


def model(record: Record) -> str:
    """The citation of a record's model; of one of timm's that is not listed, timm's."""
    name = record.experiment.model
    if name in MODELS:
        return cite(MODELS[name])
    network = (record.config.get("model") or {}).get("network") or {}
    library = isinstance(network, Mapping) and str(network.get("_target_")) == "timm.create_model"
    return cite("wightman2019timm") if library else ""


def dataset(name: str) -> str:
    """The citation of a data set by its name in the configuration."""
    return cite(*([DATASETS[name]] if name in DATASETS else []))


def backend(name: str) -> str:
    """The citation of a runtime by the name of its backend."""
    keys = [key for start, key in _BACKENDS if name.startswith(start)][:1]
    return cite(*keys, *(["kalamkar2019bfloat16"] if name.endswith("_bf16") else []))


def steps(records: Sequence[Record]) -> list[str]:
    """What each step does, with its works, e.g. ``prune: whole channels are ... [@fang2023]``."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, node in (record.config.get("compress") or {}).items():
            if isinstance(node, Mapping) and (text := _step(node)):
                text += _recalibrated(record, node)
                found.setdefault(step_name(name), {})[text] = None
    return [f"{name}: {text}" for name, texts in found.items() for text in texts]


def _step(node: Mapping[str, Any]) -> str:
    words, keys = STEPS.get(str(node.get("_target_", "")).rpartition(".")[2], ("", ()))
    if not words:
        return ""
    text = words + cite(*keys)
    return text + "".join(part for part in _details(node) if part)


def _recalibrated(record: Record, node: Mapping[str, Any]) -> str:
    """That BatchNorm's statistics were measured anew after a step that changed the network."""
    changes = str(node.get("_target_", "")).endswith((".Prune", ".LowRank"))
    images = any((e.get("details") or {}).get("batch_norm_images") for e in record.lineage)
    if not (changes and node.get("recalibrate_bn") and images):
        return ""
    return f", then statistics of batch normalization measured anew{cite('yu2019universally')}"


def _details(node: Mapping[str, Any]) -> Iterable[str]:
    """What a step's settings add, each with its work."""
    criterion = str(node.get("criterion") or "")
    if criterion:
        named, key = CRITERIA.get(criterion, (criterion, ""))
        yield f", chosen by {named}{cite(*([key] if key else []))}"
    if node.get("pattern"):
        yield f", in the pattern {node['pattern']}{cite('mishra2021sparse')}"
    if node.get("method") in RANGES:
        named, works = RANGES[str(node["method"])]
        yield f", with ranges from {named}{cite(*works)}"
    if "fast_bias_correction" in node:
        how = "fast" if node["fast_bias_correction"] else "full"
        yield f", with {how} bias correction{cite('nagel2019datafree')}"
    if node.get("bias_correction"):
        yield f", with bias correction{cite('nagel2019datafree')}"
    if node.get("adaround"):
        yield f", with weights rounded adaptively{cite('nagel2020adaround')}"
    if node.get("equalize"):
        yield f", with cross-layer equalization{cite('nagel2019datafree')}"
    if node.get("penalty") in PENALTIES:
        yield f", by the penalty {node['penalty']}{cite(PENALTIES[str(node['penalty'])])}"
    if node.get("teacher_weight"):
        yield f", towards the outputs of the network as it was{cite('hinton2015distilling')}"
    if node.get("ema"):
        yield f", with a moving average of the weights{cite('polyak1992acceleration')}"
    if node.get("label_smoothing"):
        yield f", with label smoothing{cite('szegedy2016rethinking')}"


def keys_in(texts: Iterable[str]) -> list[str]:
    """Every work that these texts cite, once."""
    found = [k for t in texts for group in _MARKER.findall(t) for k in group.split("; ")]
    return [key.lstrip("@") for key in dict.fromkeys(found)]


def bibtex(keys: Sequence[str]) -> str:
    """The entries of these works, in the order of the library.

    Raises:
        KeyError: A key has no entry.
    """
    entries = {e.split("{", 1)[1].split(",", 1)[0]: e for e in _entries()}
    missing = [key for key in keys if key not in entries]
    if missing:
        raise KeyError(missing[0])
    return "\n".join(entries[key] for key in entries if key in set(keys))


def _entries() -> list[str]:
    text = _LIBRARY.read_text(encoding="utf-8")
    return [f"@{part.strip()}\n" for part in re.split(r"^@", text, flags=re.MULTILINE)[1:]]


def for_latex(text: str) -> str:
    r"""Escaped, with ``\cite`` for each citation."""
    parts = _MARKER.split(text)  # text, keys, text, keys, text
    return "".join(
        rf"~\cite{{{part.replace('@', '').replace('; ', ',')}}}" if i % 2 else latex(part)
        for i, part in enumerate(parts)
    )


def plain(text: str) -> str:
    """Without citations."""
    return _MARKER.sub("", text)
