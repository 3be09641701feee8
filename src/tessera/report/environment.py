"""Where a number was measured: versions, hardware, time."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tessera.devices import world_size

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

PACKAGES = ("tessera-vit", "torch", "numpy", "pillow", "safetensors", "scikit-learn")


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge or repeat a measurement; nothing personal."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _commit(),
        "command": " ".join(["tessera", *sys.argv[1:]]) if _is_command() else "python",
    }


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Return the most memory that this process has held so far, in bytes; None where unknown.

    ``process`` is its resident set, worker processes apart; ``device`` what PyTorch allocated on
    a CUDA device.
    """
    held = None
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"process": held, "device": on_device}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device_name(device: torch.device) -> str:
    """Return what a CUDA device or the processor calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "mps"
    return _processor() or platform.processor() or platform.machine()


def _processor() -> str | None:
    """The processor's name, which Python's platform module does not know on Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else None


def _commit() -> str | None:
    """The commit of the source tree that this package runs from, if it is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _is_command() -> bool:
    return Path(sys.argv[0]).name in ("tessera", "__main__.py")
