"""The built files of the explorer are those of its sources."""

from __future__ import annotations

import filecmp
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "explorer"
BUILT = ROOT / "log_api" / "static"
# As explorer/write_digest.mjs has them.
BUILT_FROM = ("index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts", "src")


def digest_of(folder: Path) -> str:
    found = hashlib.sha256()
    for root in BUILT_FROM:
        path = folder / root
        files = (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in sorted(files, key=lambda each: each.relative_to(folder).parts):
            found.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return found.hexdigest()


def test_the_built_files_are_as_new_as_their_sources() -> None:
    assert (BUILT / "sources.sha256").read_text().strip() == digest_of(SOURCES), "run `make explorer`"


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    copy = tmp_path / "explorer"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules"))
    assert digest_of(copy) == digest_of(SOURCES)
    (copy / "src" / "strings.ts").write_text("")
    assert digest_of(copy) != digest_of(SOURCES)


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_the_sources_build_to_exactly_these_files_and_their_tests_pass(tmp_path: Path) -> None:
    copy = tmp_path / "explorer"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "log_api").mkdir()
    for command in (["npm", "ci", "--no-progress"], ["npm", "run", "build"], ["npm", "test"]):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    built = tmp_path / "log_api" / "static"
    names = sorted(str(file.relative_to(built)) for file in built.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(BUILT)) for file in BUILT.rglob("*") if file.is_file())
    assert filecmp.cmpfiles(built, BUILT, names, shallow=False) == (names, [], [])
