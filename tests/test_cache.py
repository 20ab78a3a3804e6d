"""The cache gives back what was put in, or nothing; it keeps its size and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock

from pqbench.cache import GIB, Cache, store
from pqbench.cache.__main__ import main
from pqbench.core import files
from pqbench.core.artifact import RESULT

KIB = 1024


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def put(cache: Cache, name: str, used: float, size: int = KIB) -> Path:
    folder = cache.stages / name
    aside = cache.aside(folder)
    (aside / "part").mkdir()
    (aside / "part" / "file").write_bytes(b"x" * size)
    cache.keep(aside, folder, {"name": name, "value": used})
    os.utime(folder / RESULT, (used, used))
    return folder


def test_entry_comes_back_with_its_payload(cache: Cache) -> None:
    folder = put(cache, "one", 5.0)
    found = cache.find(folder)
    assert found is not None
    assert found["value"] == 5.0
    assert list(found["files"]) == ["part/file"]
    assert cache.find(cache.stages / "two") is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "result", "value"])
def test_damaged_entry_is_noticed_and_removed(
    cache: Cache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(cache, "one", 5.0)
    file, result = folder / "part" / "file", folder / RESULT
    if damage == "flipped":
        stat = file.stat()
        file.write_bytes(b"x" * (KIB - 1) + b"y")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif damage == "cut":
        file.write_bytes(b"x")
    elif damage == "missing":
        file.unlink()
    elif damage == "result":
        result.write_bytes(result.read_bytes()[:40])
    else:
        result.write_text(result.read_text().replace("5.0", "6.0"))
    assert cache.find(folder) is None
    assert not folder.exists()
    assert "damaged cache entry removed" in caplog.text


def test_eviction_takes_what_was_used_longest_ago_and_nothing_in_use(cache: Cache) -> None:
    for number, name in enumerate(("old", "held", "middle", "new")):
        put(cache, name, 1000.0 + number, 100 * KIB)
    cache.close()
    other = Cache(cache.root)
    assert other.find(cache.stages / "held") is not None
    os.utime(cache.stages / "held" / RESULT, (1001.0, 1001.0))
    removed = cache.evict(150 * KIB / GIB)
    assert [e.name for e in removed] == ["old", "middle", "new"]
    assert cache.evict(1 / GIB) == []
    other.close()
    assert [e.name for e in cache.evict(1 / GIB)] == ["held"]


def test_keeping_an_entry_evicts_down_to_the_limit(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", limit_gb=250 * KIB / GIB)
    for number in range(4):
        put(cache, str(number), 1000.0 + number, 100 * KIB)
        cache.close()
    assert [e.name for e in cache.entries()] == ["2", "3"]


def test_records_count_but_are_never_evicted(cache: Cache) -> None:
    folder = cache.records / "abc"
    aside = cache.aside(folder)
    (aside / "record.json").write_text("{}")
    cache.keep(aside, folder, {"name": "a record"})
    cache.close()
    assert cache.evict(0.0) == []
    assert [e.kind for e in cache.entries()] == ["records"]


def test_clean_removes_what_the_dead_left_and_nothing_that_is_being_made(cache: Cache) -> None:
    dead, alive = "0" * 32, "a" * 32
    for name in (dead, alive):
        (cache.stages / f"{name}.1.tmp").mkdir(parents=True)
    with cache.lock(alive):
        assert cache.clean() == [cache.stages / f"{dead}.1.tmp"]
        assert [p.name for p in cache.locks.iterdir()] == [f"{alive}.lock"]
    assert cache.clean() == [cache.stages / f"{alive}.1.tmp"]
    assert not list(cache.locks.iterdir())


def test_clean_leaves_alone_what_does_not_bear_the_name_of_an_entry(cache: Cache) -> None:
    """``outputs=.`` beside a user's own ``cache`` folder."""
    mine = [cache.stages / "draft.tmp", cache.unfinished / "novel", cache.locks / "poetry.lock"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    assert cache.clean() == []
    assert all(path.read_text() == "mine" for path in mine)


def test_lock_still_excludes_after_its_file_was_removed(cache: Cache) -> None:
    with cache.lock("1" * 32):
        cache.clean()
        with pytest.raises(TimeoutError):
            FileLock(cache.locks / f"{'1' * 32}.lock", timeout=0).acquire()


def test_command_lists_verifies_and_prunes(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["--outputs", str(tmp_path)]
    assert main(["list", "--outputs", str(tmp_path / "nowhere")]) == 2
    folders = [put(cache, name, 1000.0 + i) for i, name in enumerate(("one", "two"))]
    cache.close()
    assert main(["list", *outputs]) == 0
    shown = capsys.readouterr().out
    assert shown.index("two") < shown.index("one")
    assert "2 entries" in shown
    assert main(["verify", *outputs]) == 0
    (folders[0] / "part" / "file").write_bytes(b"y")
    assert main(["verify", *outputs]) == 1
    assert str(folders[0]) in capsys.readouterr().out
    assert main(["verify", "--remove", *outputs]) == 0
    assert not folders[0].exists()
    assert main(["prune", "--max-gb", "0", *outputs]) == 0
    assert "1 of 1 entries removed" in capsys.readouterr().out
    assert not folders[1].exists()


def test_clean_removes_half_done_work_that_nobody_goes_on_with(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, new = "0" * 32, "1" * 32
    for name, days in ((old, 8), (new, 6)):
        (cache.unfinished / name).mkdir(parents=True)
        when = time.time() - days * 24 * 3600
        os.utime(cache.unfinished / name, (when, when))
    assert cache.clean() == [cache.unfinished / old]
    assert [path.name for path in cache.unfinished.iterdir()] == [new]


def bytes_of(cache: Cache) -> int:
    return sum(entry.size for entry in cache.entries())


def test_keeping_looks_at_no_other_entry_below_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", limit_gb=1.0)
    put(cache, "first", 5.0)
    looks: list[str] = []
    monkeypatch.setattr(store, "_size_and_use", lambda folder: looks.append(folder.name))
    for number in range(20):
        put(cache, str(number), 5.0, KIB * number)
        other = Cache(cache.root, limit_gb=1.0)  # as the next experiment has it
        put(other, f"other{number}", 5.0)
        other.close()
        assert other.account.counted == 0
    assert looks == []
    assert cache.account.counted == 1
    monkeypatch.undo()
    cache.remove(cache.stages / "7")
    put(cache, "8", 5.0, 3)  # in the place of another
    assert cache.account.total().bytes == bytes_of(cache)
    assert cache.account.total().entries == 40
    assert cache.account.counted == 1


@pytest.mark.parametrize("what", ["removed", "added", "account cut", "killed in between"])
def test_account_is_counted_anew_where_it_cannot_be_right(tmp_path: Path, what: str) -> None:
    cache = Cache(tmp_path / "cache", limit_gb=1.0)
    folders = [put(cache, str(number), 5.0, 10 * KIB) for number in range(3)]
    if what == "removed":
        shutil.rmtree(folders[0])
    elif what == "added":
        shutil.copytree(folders[0], cache.records / "0123456789abcdef")
    elif what == "account cut":
        (cache.root / "size.json").write_text('{"bytes": 1')
    else:
        with contextlib.suppress(KeyboardInterrupt), cache.account.adding(7):
            raise KeyboardInterrupt
    again = Cache(cache.root, limit_gb=1.0)
    assert again.account.total().bytes == bytes_of(again)
    assert again.account.counted == 1


def test_what_cannot_be_evicted_is_not_looked_at_for_every_entry(tmp_path: Path) -> None:
    limit = 1000 * KIB
    cache = Cache(tmp_path / "cache", limit_gb=limit / GIB)
    record = cache.records / "abc"
    aside = cache.aside(record)
    (aside / "record.json").write_bytes(b"x" * 2 * limit)
    cache.keep(aside, record, {"name": "a record"})
    counted = cache.account.counted
    for number in range(5):
        put(cache, str(number), 1000.0 + number, KIB)
    assert cache.account.counted == counted
    cache.close()
    put(cache, "large", 2000.0, 100 * KIB)  # beyond the slack: now they go
    assert [e.name for e in cache.entries() if e.kind == "stages"] == ["large"]


def test_entry_is_read_once_in_a_process_unless_it_changes(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(cache, "one", 5.0)
    reads: list[str] = []
    real = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: reads.append(path.name) or real(path))
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    for _ in range(3):
        assert cache.find(folder) is not None
    assert reads == ["file"]
    stat = (folder / "part" / "file").stat()
    (folder / "part" / "file").write_bytes(b"y" * KIB)
    os.utime(folder / "part" / "file", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cache.find(folder) is None
