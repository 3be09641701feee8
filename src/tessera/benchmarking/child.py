"""The process in which memory is measured: ``python -m tessera.benchmarking.child JSON``."""

import json
import sys
from collections.abc import Callable

import torch

from tessera.benchmarking.memory import measure
from tessera.benchmarking.work import Case, Subject, compiling, open_model
from tessera.errors import RunError


def main() -> int:
    """Measure one case; print bytes, or None."""
    told = json.loads(sys.argv[1])
    torch.set_num_threads(told["threads"])
    device, case = torch.device(told["device"]), Case(**told["case"])
    if device.type == "cuda":
        torch.empty(1, device=device)  # the context is no part of the model

    def prepare() -> Callable[[], object]:
        return Subject(open_model(case.model, offline=told["offline"]), device, [case]).work(case)

    try:
        with compiling():
            peak = measure(prepare, device)
    except (RunError, ValueError) as error:
        sys.stderr.write(str(error).splitlines()[0] + "\n")
        return 1
    sys.stdout.write(f"\n{peak}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
