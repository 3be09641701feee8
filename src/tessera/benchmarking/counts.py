"""What a model costs on paper, and what a device can do at best."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tessera.config import ViTConfig
from tessera.models.vit import ViT

PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 peak of tensor cores with float32 sums, in TFLOP/s, from NVIDIA's data sheets and
architecture white papers; where a sheet gives the rate with sparsity, half of it."""

SIDE = 1024
"""Side of the matrices whose product measures what a processor can do."""


class Peak(NamedTuple):
    """The most arithmetic that a device does in a second, in one type of number."""

    tflops: float
    """TFLOP/s; a multiplication and an addition are two operations."""
    source: str
    """"data sheet", or "measured matmul"."""


def count_macs(config: ViTConfig) -> int:
    """Count the multiply-accumulates of one image at the model's own size, attention included.

    This is the nominal cost, every token through every block, which the literature states and MFU
    is defined by; that the last block computes fewer tokens for the head is not taken off.
    Norms, activations and softmax are not counted, as usual.
    """
    with torch.device("meta"), torch.no_grad():
        model = ViT(config).eval().requires_grad_(False)  # else tables of positions have no graph
        image = torch.empty(1, config.in_chans, *config.image_shape)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.forward_head(model.forward_features(image))
    return counter.get_total_flops() // 2


def find_peak(device: torch.device, products: Sequence[float]) -> Peak | None:
    """Return the peak of a device: its data sheet's in bfloat16, or a processor's measured one.

    None where neither is known.

    Args:
        products: Seconds of each of a processor's matrix products; the fastest counts.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device).replace("-", " ")
        known = [tflops for key, tflops in PEAKS.items() if key in name]
        return Peak(known[0], "data sheet") if known else None
    if not products:
        return None
    return Peak(2 * SIDE**3 / min(products) / 1e12, "measured matmul")


def matrix_product(dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return the multiplication of two square matrices, as work for a processor."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)
