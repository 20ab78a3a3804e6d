"""State dicts from files: what is read, what is refused, and what the messages say."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pqbench.core.errors import WeightsError
from pqbench.models.weights import apply, load_file


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Inner(nn.Module):
    """A network whose own names begin with a prefix that is stripped elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.model = network()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch pqbench_was_here",))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_load_file_refuses_a_pickle_that_would_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "raw.pth").open("wb") as file:
        pickle.dump({"weight": Evil()}, file)
    torch.save({"weight": Evil()}, tmp_path / "zip.pth")
    for name in ("raw.pth", "zip.pth"):
        with pytest.raises(WeightsError, match=f"{name} is refused") as caught:
            load_file(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "pqbench_was_here").exists()


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "network.", "module._orig_mod."])
def test_load_file_strips_prefixes(prefix: str, tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save({f"{prefix}{k}": v for k, v in state.items()}, tmp_path / "a.pth")
    save_file({f"{prefix}{k}": v for k, v in state.items()}, tmp_path / "a.safetensors")
    assert same(load_file(tmp_path / "a.pth"), state)
    assert same(load_file(tmp_path / "a.safetensors"), state)


def test_load_file_keeps_a_prefix_that_not_all_names_share(tmp_path: Path) -> None:
    state = {"model.weight": torch.ones(1), "scale": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    assert same(load_file(tmp_path / "a.pth"), state)


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model"])
def test_load_file_takes_the_state_dict_out_of_a_checkpoint(container: str, tmp_path: Path) -> None:
    state = network().state_dict()
    inside = {f"model.{k}": v for k, v in state.items()}
    torch.save({"epoch": 3, container: inside, "args": {"lr": 0.1}}, tmp_path / "last.ckpt")
    assert same(load_file(tmp_path / "last.ckpt"), state)


def test_load_file_reads_what_lightning_writes(tmp_path: Path) -> None:
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

    task = Task()
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    assert same(load_file(tmp_path / "task.ckpt"), dict(task.model.state_dict()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"", "cannot read|refused"),
        ("a.pth", b"PK\x03\x04 half a file", "cannot read"),
        ("a.safetensors", b"12345678{", "cannot read"),
        ("a.safetensors", b"", "cannot read"),
    ],
)
def test_load_file_damaged_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_file(tmp_path / name)
    assert name in str(caught.value)


def test_load_file_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="cannot read"):
        load_file(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no state dict"),
        ([torch.ones(1)], "holds list, no state dict"),
        ({"a": torch.ones(1), "epoch": 3}, "entry 'epoch' is int"),
        ({"a": torch.tensor([1.0, float("nan")])}, "NaN"),
    ],
)
def test_load_file_without_a_state_dict_is_refused(
    content: object, message: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=message):
        load_file(tmp_path / "a.pth")


def test_load_file_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*nowhere\.pth"):
        load_file(tmp_path / "nowhere.pth")


def test_apply_copies_every_tensor() -> None:
    source, target = network(), network()
    apply(target, source.state_dict())
    assert same(source.state_dict(), target.state_dict())


def test_apply_reads_half_precision_into_float32() -> None:
    source, target = network(), network()
    apply(
        target,
        {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()},
    )
    assert target[0].weight.dtype == torch.float32
    torch.testing.assert_close(target[0].weight, source[0].weight, atol=1e-3, rtol=1e-3)


def test_apply_finds_a_prefix_that_the_network_really_has(tmp_path: Path) -> None:
    source, target = Inner(), Inner()
    torch.save(source.state_dict(), tmp_path / "a.pth")
    apply(target, load_file(tmp_path / "a.pth"))
    assert same(source.state_dict(), target.state_dict())


def test_apply_lists_everything_wrong_at_once_and_changes_nothing() -> None:
    target = network()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = network().state_dict()
    del state["0.weight"], state["0.bias"], state["1.weight"], state["1.bias"]
    state["3.weight"] = torch.zeros(5, 4)
    state["extra"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        apply(target, state, "file.pth")
    message = str(caught.value)
    assert "file.pth do not fit Sequential" in message
    assert "4 missing: 0.weight, 0.bias, 1.weight and 1 more" in message
    assert "1 unexpected: extra" in message
    assert "1 other shape: 3.weight (5, 4) instead of (2, 4)" in message
    assert same(before, target.state_dict())


def test_apply_does_not_need_batch_counters() -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    apply(network(), state)
