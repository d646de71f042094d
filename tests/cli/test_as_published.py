"""`rcodsr upscale --as-published`: what it cannot be combined with, and what a dry run says of it."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import RunHere, one_error_line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weights", "random:pisa-sr", "-r", "0.5"), ("--as-published: contradicts -r", "use only one of the two")),
        (("--weights", "random:s3diff", "--guidance", "1.07"), ("contradicts --guidance",)),
        (("--weights", "random:osediff", "-t", "128"), ("contradicts --tile",)),
        (("--weights", "rcod-tiny"), ("rcod-tiny is rcodsr's own variant", "osediff, s3diff, pisa-sr")),
    ],
)
def test_what_contradicts_it_is_a_usage_error(
    run_here: RunHere, picture: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    one_error_line(run_here("upscale", "photo.png", "--as-published", *arguments), 2, *words)
    assert not picture.with_name("photo_x4.png").exists()


def test_it_is_part_of_what_the_record_compares(run_here: RunHere, picture: Path) -> None:
    plain, published = (
        json.loads(run_here("upscale", picture.name, "--weights", "random:s3diff", "-n", "--json", *way).stdout.splitlines()[0])
        for way in ((), ("--as-published",))
    )
    assert (published["status"], published["timestep"]) == ("planned", 999)
    assert published["weights"] == plain["weights"] + "+as-published"
