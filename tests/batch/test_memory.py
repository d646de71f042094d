from pathlib import Path

import psutil

from rcodsr.batch import memory


def test_what_is_free_is_less_than_the_machine_has() -> None:
    free = memory.free_memory()
    assert free is not None
    assert 0 < free < psutil.virtual_memory().total


def _group(root: Path, limit: str) -> None:
    group = root / "sys/fs/cgroup/user/job"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/user/job\n")
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("3000\n")
    (group / "memory.stat").write_text("anon 2000\ninactive_file 400\n")


def test_a_control_group_leaves_its_limit_less_what_it_cannot_drop(tmp_path: Path) -> None:
    _group(tmp_path, "5000")
    assert memory._of_group(tmp_path) == 5000 - 3000 + 400


def test_a_control_group_without_a_limit_counts_for_nothing(tmp_path: Path) -> None:
    _group(tmp_path, "max")
    assert memory._of_group(tmp_path) is None
    assert memory._of_group(tmp_path / "another system") is None
