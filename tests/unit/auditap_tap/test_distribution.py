"""What a tapped service installs or copies: the package `auditap_tap` and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]

# Imports the package, taps one request, and prints the top-level names that this brought besides the standard library.
PROGRAM = """
import sys
sys.path[:0] = [sys.argv[1]]
import asyncio, importlib

package = importlib.import_module(sys.argv[2])

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    pass

tap = package.AuditTapMiddleware(app, collector="unix:/nowhere", tap_id="t", state_dir=None, close_ms_max=1)
scope = {"type": "http", "method": "PUT", "path": "/a", "headers": [(b"host", b"api.example.com")]}
asyncio.run(tap(scope, receive, send))
tap.close()
assert tap.stats.captured == 1 and tap.stats.failed == 0, tap.stats
names = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__"}
print(*sorted(names))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT / "deploy/auditap-tap", check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def imported_names(path: Path, package: str, folder: Path) -> list[str]:
    """Import and use `package` from `path` in a process that sees nothing else but the standard library."""
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(path), package]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.split()


def test_the_wheel_works_alone_and_brings_one_import_name(wheel: Path, tmp_path: Path) -> None:
    assert imported_names(wheel, "auditap_tap", tmp_path) == ["auditap_tap"]


def test_the_wheel_holds_the_package_its_licence_and_no_dependencies(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        metadata = opened.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert {name.partition("/")[0] for name in names} == {
        "auditap_tap",
        f"auditap_tap-{version('auditap')}.dist-info",
    }
    assert {"auditap_tap/LICENSE", "auditap_tap/py.typed"} <= set(names)
    assert "Requires-Dist" not in metadata


def test_the_folder_can_be_copied_under_another_name(tmp_path: Path) -> None:
    copytree(ROOT / "auditap_tap", tmp_path / "orders/tap", ignore=ignore_patterns("__pycache__"))
    assert imported_names(tmp_path, "orders.tap", tmp_path) == ["orders"]
