"""Clients of the log API that others wrote, installed below .cache from their locks: once a machine, whoever asks first.

Nothing is installed where its tool is missing: `UnavailableError` says what to install.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).resolve().parent
_CACHE = ROOT / ".cache" / "clients"
_INSTALLED_WITHIN_S = 600
_GO_MINOR_MIN = 22
_NODE_MAJOR_MIN = 20
# The programs run for a moment: to optimise them takes longer. Without C, nothing needs a C compiler.
_GO_BUILD = ("build", "-trimpath", "-gcflags=all=-N -l", "-ldflags=-s -w")


class UnavailableError(Exception):
    """A client cannot be installed on this machine; the message says why and what to install."""


@functools.cache
def python_packages(version: str) -> Path:
    """Folder of the Python SDK of a major version, to be put before the tests' own packages."""
    lock = _HERE / "python" / f"requirements-{version}.txt"
    # From a source package without a download that is not locked: setuptools is among the tools for development.
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--require-hashes", "-r", str(lock)]
    return _installed(
        f"python-{version}", [lock], lambda folder: _run([*_pip(), *options, "--target", str(folder)])
    )


@functools.cache
def node_modules() -> Path:
    """Folder of the TypeScript SDKs and of zod, for `NODE_PATH`."""
    _require("node", _NODE_MAJOR_MIN, r"v(\d+)", "--version")
    lock = [_HERE / "node" / "package.json", _HERE / "node" / "package-lock.json"]
    npm = _program("npm", "npm")

    def install(folder: Path) -> None:
        for each in lock:
            shutil.copy(each, folder)
        _run(
            [
                npm,
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--prefer-offline",
                "--loglevel=error",
            ],
            folder,
        )

    return _installed("node", lock, install) / "node_modules"


@functools.cache
def go_program() -> Path:
    """The program of the clients that are written in Go."""
    go = _require("go", _GO_MINOR_MIN, r"go1\.(\d+)", "version")
    sources = sorted((_HERE / "go").iterdir())
    environment = {
        "CGO_ENABLED": "0",
        "GOCACHE": str(_CACHE / "go-build"),
        "GOMODCACHE": str(_CACHE / "go-modules"),
        # Writable, so that `make clean` can remove it; and exactly what is locked, by the toolchain that is there.
        "GOFLAGS": "-modcacherw -mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }

    def install(folder: Path) -> None:
        _run([go, *_GO_BUILD, "-o", str(folder / "clients"), "."], _HERE / "go", environment)

    return _installed("go", sources, install) / "clients"


def _installed(name: str, sources: Sequence[Path], install: Callable[[Path], None]) -> Path:
    """Return the folder that `install` filled from the sources as they are, now or before. Others wait meanwhile."""
    digest = hashlib.sha256()
    for each in sources:
        digest.update(each.name.encode() + b"\0" + each.read_bytes())
    folder = _CACHE / f"{name}-{digest.hexdigest()[:16]}"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for outdated in _CACHE.glob(f"{name}-????????????????"):
                shutil.rmtree(outdated)
            with tempfile.TemporaryDirectory(dir=_CACHE, prefix=f"{name}.") as draft:
                fresh = Path(draft) / name
                fresh.mkdir()
                install(fresh)
                fresh.rename(folder)
    return folder


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--no-compile"]
    return [_program("uv", "pip or uv"), "pip", "install", "--python", sys.executable]


def _program(name: str, install: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"no {name} on this machine: install {install}")
    return found


def _require(name: str, least: int, pattern: str, *version: str) -> str:
    wanted = f"{name} {'1.' if name == 'go' else ''}{least} or later"
    found = _program(name, wanted)
    text = subprocess.run(
        [found, *version], capture_output=True, text=True, check=True, env=_environment()
    ).stdout
    number = re.search(pattern, text)
    if number is None or int(number[1]) < least:
        raise UnavailableError(f"{text.strip()} is too old: install {wanted}")
    return found


def _run(argv: Sequence[str], cwd: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(
            argv,
            check=True,
            timeout=_INSTALLED_WITHIN_S,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=_environment() | (environment or {}),
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{argv[0]} did not end within {_INSTALLED_WITHIN_S} s") from None
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{' '.join(argv)} failed: {error.stderr[-2000:]}") from None


def _environment() -> dict[str, str]:
    # The variables of a test run are nothing to the programs that install.
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GO111"))}
