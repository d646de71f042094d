"""`rcodsr upscale @-` as a program that stays: each line of standard input is answered before the next is sent."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import one_error_line
from tests.conftest import RunCli


def test_each_line_is_answered_at_once(picture: Path) -> None:
    directory = picture.parent
    shutil.copy(picture, directory / "two.png")
    command = [sys.executable, "-m", "rcodsr", "upscale", "@-", "--json", "-o", "out"]
    process = subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(line: str) -> dict[str, object]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        answer: dict[str, object] = json.loads(process.stdout.readline())
        return answer

    assert ask("nothere.png")["status"] == "failed"
    assert ask("photo.png")["status"] == "done"
    assert (directory / "out" / "photo_x4.png").is_file()
    assert ask("https://example.org/a.png")["input"] == "https://example.org/a.png"
    assert ask("photo.png")["status"] == "skipped"
    assert ask("two.png")["status"] == "done"
    process.stdin.close()
    assert json.loads(process.stdout.read()) == {"summary": {"done": 2, "skipped": 1, "failed": 2}}
    process.stdout.close()
    assert process.wait(60) == 1


def test_no_line_is_nothing_to_do_and_a_dry_run_reads_to_the_end(run_cli: RunCli, folder: Path) -> None:
    one_error_line(run_cli("upscale", "@-", input="# none\n\n"), 6, "@-")
    done = run_cli("upscale", "@-", "-n", "-o", "out", input="album/a.png\nalbum/b.JPG\nnothere.png")
    assert done.stdout.splitlines() == [str(Path("out") / "a_x4.png"), str(Path("out") / "b_x4.JPG")]
    assert "2 planned, 1 failed" in done.stderr
    assert "[2] planned" in done.stderr  # of how many nobody knows
    assert "eta" not in done.stderr
    assert done.returncode == 1
    assert not (folder.parent / "out").exists()


def test_any_name_survives_a_pipe(run_cli: RunCli, picture: Path) -> None:
    odd = picture.with_name("a\nb.png")
    picture.rename(odd)
    done = run_cli("upscale", "@-", "-n", "--print0", "-q", input=f"{odd.name}\0")
    assert done.stdout == "a\nb_x4.png\0"
    one_error_line(run_cli("upscale", "a.png", "--print0", "--json"), 2, "--print0")
    assert [path.name for path in picture.parent.iterdir()] == [odd.name]
