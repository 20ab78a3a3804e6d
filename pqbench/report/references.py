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

_LIBRARY = Path(__file__).with_name("references.bib")
_MARKER = re.compile(r" ?\[(@[\w:-]+(?:; @[\w:-]+)*)\]")
_NNCF, _ORT, _TORCH = "kozlov2020nncf", "onnxruntime", "paszke2019pytorch"
_INT8 = "jacob2018quantization"
_TRAINED = ("loshchilov2019adamw", "loshchilov2017sgdr")

STEPS: dict[str, tuple[str, tuple[str, ...]]] = {  # class: what it does, works
    "Prune": ("whole channels are removed by Torch-Pruning", ("fang2023depgraph",)),
    "PruneUnstructured": ("single weights are set to zero", ("han2015learning",)),
    "PruneOnnx": ("weights of the ONNX file are set to zero", ("han2015learning",)),
    "Finetune": ("the network is trained on the training split with AdamW", _TRAINED),
    "NncfInt8": ("static INT8 quantization by NNCF", (_NNCF, _INT8)),
    "NncfAccuracyInt8": ("static INT8 quantization by NNCF under a limit of the drop", (_NNCF,)),
    "NncfQat": ("quantization-aware training with NNCF", (_NNCF, _INT8)),
    "NncfWeights": ("compression of the weights by NNCF", (_NNCF,)),
    "OrtInt8": ("static INT8 quantization by ONNX Runtime", (_ORT, _INT8)),
    "OrtDynamic": ("dynamic INT8 quantization by ONNX Runtime", (_ORT,)),
    "TrtEntropyInt8": ("INT8 by TensorRT's entropy calibration", ("tensorrt", "wu2020integer")),
    "Pt2eInt8": ("static INT8 quantization by PyTorch's export flow", (_TORCH, _INT8)),
    "TorchDynamic": ("dynamic INT8 quantization by PyTorch", (_TORCH,)),
    "Fp16": ("weights in half precision", ()),
    "Sensitivity": ("each layer compressed alone, as a scan", ("li2017pruning",)),
}
CRITERIA = {
    "magnitude_l1": "li2017pruning",
    "magnitude_l2": "li2017pruning",
    "lamp": "lee2021lamp",
    "bn_scale": "liu2017slimming",
    "fpgm": "he2019fpgm",
    "taylor": "molchanov2019importance",
    "hessian": "lecun1990obd",
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
    "resnet34": "he2016resnet",
    "resnet50": "he2016resnet",
    "squeezenet1_1": "iandola2016squeezenet",
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
    ("torch_compile", "ansel2024pytorch2"),
    ("torch", "paszke2019pytorch"),
)


def cite(*keys: str) -> str:
    """A citation with the space before it; empty without keys."""
    different = dict.fromkeys(keys)
    return f" [{'; '.join(f'@{key}' for key in different)}]" if different else ""


def model(name: str) -> str:
    """The citation of a model by its name in the configuration."""
    return cite(*([MODELS[name]] if name in MODELS else []))


def dataset(name: str) -> str:
    """The citation of a data set by its name in the configuration."""
    return cite(*([DATASETS[name]] if name in DATASETS else []))


def backend(name: str) -> str:
    """The citation of a runtime by the name of its backend."""
    return cite(*[key for start, key in _BACKENDS if name.startswith(start)][:1])


def steps(records: Sequence[Record]) -> list[str]:
    """What each step does, with its works, e.g. ``prune: whole channels are ... [@fang2023]``."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, node in (record.config.get("compress") or {}).items():
            if isinstance(node, Mapping) and (text := _step(node)):
                found.setdefault(name, {})[text] = None
    return [f"{name}: {text}" for name, texts in found.items() for text in texts]


def _step(node: Mapping[str, Any]) -> str:
    words, keys = STEPS.get(str(node.get("_target_", "")).rpartition(".")[2], ("", ()))
    if not words:
        return ""
    text = words + cite(*keys)
    criterion = str(node.get("criterion") or "")
    if criterion:
        text += f" by the criterion {criterion}" + cite(*_known(CRITERIA, criterion))
    if node.get("pattern"):
        text += f" in the pattern {node['pattern']}{cite('mishra2021sparse')}"
    if node.get("teacher_weight"):
        text += f", towards the outputs of the network as it was{cite('hinton2015distilling')}"
    return text


def _known(works: Mapping[str, str], name: str) -> list[str]:
    return [works[name]] if name in works else []


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
