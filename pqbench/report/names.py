"""Names as they are printed: EfficientNet-Lite0, where the configuration says efficientnet_lite0.

A model or data set that is not listed keeps its own name. Conditions (``--where``) and CSV files
use the names of the configuration.
"""

from __future__ import annotations

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
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "squeezenet1_1": "SqueezeNet 1.1",
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
    "mnn": "MNN",
    "ncnn": "ncnn",
    "ncnn_bf16": "ncnn (BF16)",
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
    "torch_cuda_fp16": "PyTorch (CUDA, FP16)",
    "torchscript": "TorchScript",
}


def backend_name(name: str) -> str:
    """A runtime's name in print."""
    return BACKENDS.get(name, name)
