"""A double of Torch-TensorRT, made from the names that its own source has.

``torch_tensorrt_api.json`` was read from the sources of its wheels. The double takes their
parameters and no others (the real one swallows a misspelt setting), and its engines have their
members and no others. It exports and cuts a network as the real one does; an "engine" runs its
part in PyTorch on the host.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.fx.passes.split_module import split_module

API: dict[str, dict[str, Any]] = {
    api["version"]: api
    for api in json.loads(
        Path(__file__).with_name("torch_tensorrt_api.json").read_text(encoding="utf-8")
    )
}
VERSIONS = tuple(API)
LAYERS = {"convolution": "CaskConvolution", "addmm": "gemm", "mm": "gemm", "linear": "gemm"}
TYPES = {torch.float32: "Float", torch.float16: "Half", torch.bfloat16: "BF16"}


def refuse_unknown(given: Collection[str], known: Collection[str], what: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(f"{what} has no {unknown}")


class Engine(nn.Module):
    """``TorchTensorRTModule``: the part of a network that TensorRT took."""

    def __init__(self, part: Any, detailed: bool, kind: str | None) -> None:
        super().__init__()
        self.part = [part]  # in a list: no child, its graph is not to be seen
        self.detailed = detailed
        self.kind = kind
        self.serialized_engine = b"an engine"

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.part[0](*inputs)

    def get_layer_info(self) -> str:
        layers: list[Any] = []
        for node in self.part[0].graph.nodes:
            if node.op != "call_function":
                continue
            name = operator(node)
            values = [a.meta.get("val") for a in node.all_input_nodes]
            found = next((v.dtype for v in values if isinstance(v, torch.Tensor)), torch.float32)
            shown = {
                "Name": f"[{name.upper()}]-[aten_ops.{name}]-[{node.name}]",
                "LayerType": LAYERS.get(name, "kgen"),
                "Inputs": [{"Format/Datatype": self.kind or TYPES.get(found, "Int64")}],
            }
            layers.append(shown if self.detailed else shown["Name"])
        return json.dumps({"Layers": layers})


def operator(node: Any) -> str:
    target = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(target, "__name__", target))


class FakeTorchTensorrt:
    """The module of one version.

    Args:
        version: A key of ``API``.
        lacks: Operators without a converter; None: none has one.
        kind: Element type that the engines' layers say, whatever the network's.

    Attributes:
        compiled: The settings of every call of ``compile``.
    """

    def __init__(
        self,
        version: str = VERSIONS[-1],
        lacks: Collection[str] | None = (),
        kind: str | None = None,
    ) -> None:
        self.api = API[version]
        self.__version__ = version
        self.lacks = lacks
        self.kind = kind
        self.compiled: list[dict[str, Any]] = []
        self.detailed = False
        members = {name for name in vars(Engine) if not name.startswith("_")}
        refuse_unknown(members | {"serialized_engine"}, self.api["members"], "an engine")
        self.dynamo = SimpleNamespace(
            Debugger=self.debugger, runtime=SimpleNamespace(TorchTensorRTModule=Engine)
        )
        refuse_unknown(["Debugger"], self.api["exports"]["dynamo"], "torch_tensorrt.dynamo")
        refuse_unknown(
            ["TorchTensorRTModule"], self.api["exports"]["dynamo.runtime"], "its runtime"
        )

    @contextmanager
    def debugger(self, **options: Any) -> Iterator[None]:
        """Leaves a handler at the root of the process's logging, as the real one does."""
        import logging

        refuse_unknown(options, self.api["parameters"]["dynamo.Debugger"], "Debugger")
        logging.getLogger().handlers[:] = [logging.StreamHandler()]
        self.detailed = True
        try:
            yield
        finally:
            self.detailed = False

    def compile(
        self, module: nn.Module, ir: str, inputs: Sequence[torch.Tensor], **options: Any
    ) -> Any:
        parameters = self.api["parameters"]
        refuse_unknown(["module", "ir", "inputs", "**"], parameters["compile"], "compile")
        refuse_unknown(options, parameters["dynamo.compile"], "dynamo.compile")
        assert ir == "dynamo"
        self.compiled.append(options)
        exported = torch.export.export(module, tuple(inputs)).run_decompositions()
        whole: Any = exported.module()
        names = [n for n in whole.graph.nodes if n.op == "call_function"]
        taken = [n for n in names if self.takes(n)]
        if options["require_full_compilation"] and len(taken) < len(names):
            raise AssertionError(
                "require_full_compilation=True was specified, but model is not fully supported"
            )
        if len(taken) < options["min_block_size"]:
            return whole  # as the real one does, with a line in the log
        return self.cut(whole)

    def takes(self, node: Any) -> bool:
        return self.lacks is not None and operator(node) not in self.lacks

    def cut(self, whole: Any) -> Any:
        """Neighbours in the graph that are both taken, or both not, make a part."""
        part: dict[Any, int] = {}
        number, last = 0, None
        for node in whole.graph.nodes:
            if node.op == "call_function":
                number += last is not None and self.takes(node) != last
                last = self.takes(node)
            part[node] = number
        result: Any = split_module(whole, whole, lambda node: part[node])
        for name, child in list(result.named_children()):
            graph = getattr(child, "graph", None)
            nodes = [n for n in graph.nodes if n.op == "call_function"] if graph else []
            if nodes and all(self.takes(n) for n in nodes):
                setattr(result, name, Engine(child, self.detailed, self.kind))
        return result
