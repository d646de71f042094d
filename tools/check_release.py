"""Check a release before it is published: version, changelog, and the built wheel in a clean environment.

    python tools/check_release.py v0.2.0                 # names agree, the changelog has a dated section
    python tools/check_release.py v0.2.0 dist/*.whl      # and the wheel, installed alone, enlarges a picture

The wheel's dependencies come from pip's usual index, in the versions of constraints.txt.
"""

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = "from PIL import Image; Image.linear_gradient('L').resize((24, 20)).convert('RGB').save('in.png')"


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Contradictions between the sources and a tag, one line each; empty if there are none."""
    version = tag.removeprefix("v")
    stated = re.search(r'__version__ = "(.+)"', (root / "src/rcodsr/version.py").read_text("utf-8"))
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    dated = [section for section in sections if re.match(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)\n", section)]
    found = []
    if not stated or stated[1] != version:
        found.append(f"src/rcodsr/version.py does not say {version}")
    if not cited or cited[1] != version:
        found.append(f"CITATION.cff does not say {version}")
    if not dated:
        found.append(f"CHANGELOG.md has no section '{version} (YYYY-MM-DD)'")
    if not sections or sections[0].strip() != "Unreleased":
        found.append("CHANGELOG.md has entries under Unreleased, or no such section")
    return found


def try_wheel(wheel: Path) -> None:
    """Install a wheel into a new environment and enlarge a picture with it, outside of the source tree.

    Raises:
        subprocess.CalledProcessError: when a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder, "venv"), with_pip=True)
        python = Path(folder, "venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))
        work = Path(folder, "work")
        work.mkdir()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        constraint = ["--constraint", str(ROOT / "constraints.txt")]
        for arguments in (
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraint, str(wheel.resolve())],
            ["-c", PICTURE],
            ["-m", "rcodsr", "env"],
            ["-m", "rcodsr", "upscale", "in.png"],
            ["-c", "from PIL import Image; assert Image.open('in_x4.png').size == (96, 80)"],
        ):
            subprocess.run([str(python), *arguments], cwd=work, env=environment, check=True)


def main(tag: str, *wheels: str) -> int:
    """Print the problems and return the exit code."""
    found = problems(tag)
    for wheel in map(Path, wheels):
        if f"-{tag.removeprefix('v')}-" not in wheel.name:
            found.append(f"{wheel.name} is of another version than {tag}")
        else:
            try_wheel(wheel)
    print("\n".join(found) or f"{tag} can be released")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
