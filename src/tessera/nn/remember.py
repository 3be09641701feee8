"""Tensors that depend on sizes alone, such as indices and masks, made once for each grid."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def remembered(make: Callable[P, T]) -> Callable[P, T]:
    """Keep the last 32 results of a function of sizes and a device.

    Not while a graph is traced, whose tensors are no real ones; and never as inference tensors,
    which training could not use afterwards.
    """

    @lru_cache(maxsize=32)
    def real(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False):
            return make(*args, **kwargs)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return make(*args, **kwargs)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    return call
