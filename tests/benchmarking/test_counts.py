"""Costs on paper: big_vision's variants, and what they need."""

import pytest
import torch

from tessera.benchmarking.counts import PEAKS, SIDE, Peak, count_macs, find_peak
from tessera.models.variants import parse

PUBLISHED = {  # GMAC at 224 pixels and 1,000 classes
    "ViT-mu/16": "0.010",
    "ViT-Ti/16": "1.25",
    "ViT-S/32": "1.14",
    "ViT-S/16": "4.60",
    "ViT-M/16": "7.99",
    "ViT-B/32": "4.41",
    "ViT-B/16": "17.56",
    "ViT-L/16": "61.6",
    "ViT-So400m/14": "109.9",
    "ViT-H/14": "167.3",
    "ViT-g/14": "267",
    "ViT-G/14": "484",
    "ViT-e/14": "991",
}


@pytest.mark.parametrize(("name", "gmac"), PUBLISHED.items())
def test_macs_are_those_of_the_literature(name: str, gmac: str) -> None:
    digits = len(gmac.partition(".")[2])
    assert f"{count_macs(parse(name)) / 1e9:.{digits}f}" == gmac


def test_macs_are_those_of_the_formula_of_the_paper() -> None:
    c = parse("ViT-Ti/16", img_size=(96, 64), num_classes=7)
    t, d, m = 1 + 6 * 4, 192, 768
    block = t * (4 * d * d + 2 * d * m) + 2 * t * t * d
    assert count_macs(c) == 24 * 3 * 256 * d + 12 * block + 7 * d


def test_the_peak_of_a_processor_is_its_fastest_product() -> None:
    found = find_peak(torch.device("cpu"), [2.0, 0.5, 1.0])
    assert found == Peak(2 * SIDE**3 / 0.5 / 1e12, "measured matmul")
    assert find_peak(torch.device("mps"), []) is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Voodoo 2", None),
    ],
)
def test_a_card_is_known_by_its_name(
    name: str, tflops: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = find_peak(torch.device("cuda"), [])
    assert found == (None if tflops is None else Peak(float(tflops), "data sheet"))


def test_longer_names_come_before_those_they_contain() -> None:
    names = list(PEAKS)
    for i, name in enumerate(names):
        assert not [later for later in names[i + 1 :] if name in later]
