"""Names as they are printed: EfficientNet-Lite0, where the configuration says efficientnet_lite0.

What is not listed keeps its own name. Conditions (``--where``), CSV files, the terminal and
Markdown use the configuration's names of steps and runtimes, which can be typed; LaTeX, figures
and the methods use those of print.
"""

from __future__ import annotations

import re
from functools import lru_cache

MODELS = {
    "bert": "MiniLM-L6",
    "cnn": "CNN",
    "densenet121": "DenseNet-121",
    "efficientnet_b0": "EfficientNet-B0",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "efficientnet_lite1": "EfficientNet-Lite1",
    "efficientnet_lite2": "EfficientNet-Lite2",
    "fcn_resnet50": "FCN ResNet-50",
    "lstm": "LSTM",
    "mobilenetv2": "MobileNetV2",
    "mobilenetv3": "MobileNetV3-Large",
    "mobilenetv3_small": "MobileNetV3-Small",
    "resnet18": "ResNet-18",
    "resnet20": "ResNet-20",
    "resnet20_64": "ResNet-20 (64 px)",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "squeezenet1_1": "SqueezeNet 1.1",
    "tf_mobilenetv3_small": "MobileNetV3-Small (timm)",
    "vit_b_16": "ViT-B/16",
}
DATASETS = {
    "camvid": "CamVid",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "elpv": "ELPV",
    "fashion_mnist": "Fashion-MNIST",
    "imagenet": "ImageNet",
    "imagenet_mini": "ImageNet-mini",
    "imagenette": "Imagenette",
    "imagewoof": "Imagewoof",
    "imdb": "IMDb",
    "mnist5k": "MNIST (5,000)",
    "sst2": "SST-2",
}


def model_name(name: str) -> str:
    """A model's name in print."""
    return MODELS.get(name, name)


def dataset_name(name: str) -> str:
    """A data set's name in print."""
    return DATASETS.get(name, name)


BACKENDS = {
    "executorch": "ExecuTorch",
    "litert": "LiteRT",
    "mnn": "MNN",
    "ncnn": "ncnn",
    "ncnn_bf16": "ncnn (BF16)",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino_bf16": "OpenVINO (BF16)",
    "ort": "ONNX Runtime",
    "ort_cuda": "ONNX Runtime (CUDA)",
    "ort_tensorrt": "ONNX Runtime (TensorRT)",
    "ort_tensorrt_rtx": "ONNX Runtime (TensorRT for RTX)",
    "tensorrt": "TensorRT",
    "tensorrt_fp16": "TensorRT (FP16)",
    "tensorrt_rtx": "TensorRT for RTX",
    "torch": "PyTorch",
    "torch_bf16": "PyTorch (BF16)",
    "torch_compile": "torch.compile",
    "torch_cuda": "PyTorch (CUDA)",
    "torch_cuda_amp": "PyTorch (CUDA, FP16 by autocast)",
    "torch_cuda_fp16": "PyTorch (CUDA, FP16)",
    "torch_plain": "PyTorch (memory given back)",
    "torch_tensorrt": "Torch-TensorRT",
    "torch_tensorrt_fp16": "Torch-TensorRT (FP16)",
    "torch_tensorrt_int8": "Torch-TensorRT (INT8)",
    "torchscript": "TorchScript",
    "torchscript_cuda": "TorchScript (CUDA)",
    "torchscript_cuda_fp16": "TorchScript (CUDA, FP16)",
}
STEPS = {
    "aimet_int8": "AIMET INT8",
    "distill": "distil",
    "finetune": "fine-tune",
    "fp16": "FP16",
    "litert_int8": "LiteRT INT8",
    "mnn_int8": "MNN INT8",
    "low_rank": "low rank",
    "modelopt_int8": "ModelOpt INT8",
    "nncf_accuracy_int8": "NNCF INT8, accuracy-controlled",
    "nncf_int8": "NNCF INT8",
    "nncf_int8_full": "NNCF INT8, full correction",
    "nncf_qat": "NNCF QAT",
    "nncf_weights": "NNCF weights",
    "ort_dynamic": "ORT dynamic INT8",
    "ort_int8": "ORT INT8",
    "ort_int8_trt": "ORT INT8 for TensorRT",
    "partial_int8": "ORT INT8 where it pays",
    "prune": "prune",
    "prune_2_4": "prune 2:4",
    "prune_half": "prune half",
    "prune_masked": "prune weights, masks kept",
    "prune_onnx": "prune ONNX weights",
    "prune_onnx_channels": "prune ONNX channels",
    "prune_unstructured": "prune weights",
    "pt2e_int8": "PT2E INT8",
    "executorch_int8": "ExecuTorch INT8",
    "sensitivity": "sensitivity",
    "sparsify": "sparsify",
    "torch_dynamic": "PyTorch dynamic INT8",
    "trt_entropy_int8": "TensorRT entropy INT8",
}
_STEP = rf"(?:{'|'.join(sorted(STEPS, key=len, reverse=True))})(?:_\d+)?"
_RECIPE = re.compile(rf"(?<![\w.\-]){_STEP}(?:\+{_STEP})*(?![\w\-])")


def backend_name(name: str) -> str:
    """A runtime's name in print."""
    return BACKENDS.get(name, name)


def step_name(name: str) -> str:
    """A step's name in print; ``finetune_2``, the second of a recipe, is ``fine-tune (2)``."""
    plain, _, number = name.rpartition("_")
    if plain in STEPS and number.isdigit() and name not in STEPS:
        return f"{STEPS[plain]} ({number})"
    return STEPS.get(name, name)


@lru_cache(maxsize=4096)  # a report asks for a few of them ten thousand times
def in_print(text: str) -> str:
    """A text with its recipes as print has them: ``prune+finetune`` is ``prune + fine-tune``.

    Args:
        text: Plain, with recipes as the configuration names them.
    """

    def printed(found: re.Match[str]) -> str:
        return " + ".join(step_name(name) for name in found[0].split("+"))

    return _RECIPE.sub(printed, text)
