"""Parity with torchvision, from a golden file, and with the paper's code, from its formulae."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tessera.checkpoint.foreign import load_foreign

GOLDEN = Path(__file__).parents[1] / "golden" / "torchvision_vit.safetensors"

Arrays = dict[str, np.ndarray]


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"),
    ],
    ids=["present names", "names of the published files"],
)
def test_the_logits_are_those_of_torchvision(rename: Callable[[str], str], tmp_path: Path) -> None:
    with safe_open(GOLDEN, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {
        rename(n.removeprefix("model.")): t for n, t in tensors.items() if n.startswith("model.")
    }
    path = tmp_path / "vit.pth"
    torch.save(weights, path)
    ours = load_foreign(path, overrides={"num_heads": 2})
    with torch.inference_mode():
        logits = ours.model(tensors["golden.images"])
    # Measured: 4.8e-7, where logits are of order 1.
    torch.testing.assert_close(logits, tensors["golden.logits"], rtol=0, atol=1e-5)


D, HEADS, WIDTH, M, PATCH, DEPTH, CLASSES = 12, 3, 4, 20, 4, 2, 5


def random_npz(rng: np.random.Generator, *, pre_logits: bool) -> Arrays:
    """Weights under the names and in the shapes of google-research/vision_transformer."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    found = {
        "cls": normal(1, 1, D),
        "embedding/kernel": normal(PATCH, PATCH, 3, D),
        "embedding/bias": normal(D),
        "Transformer/posembed_input/pos_embedding": normal(1, 10, D),
        "Transformer/encoder_norm/scale": 1 + normal(D),
        "Transformer/encoder_norm/bias": normal(D),
        "head/kernel": normal(7 if pre_logits else D, CLASSES),
        "head/bias": normal(CLASSES),
    }
    if pre_logits:
        found |= {"pre_logits/kernel": normal(D, 7), "pre_logits/bias": normal(7)}
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        for k in (0, 2):
            found[f"{block}/LayerNorm_{k}/scale"] = 1 + normal(D)
            found[f"{block}/LayerNorm_{k}/bias"] = normal(D)
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            found[f"{attention}/{part}/kernel"] = normal(D, HEADS, WIDTH)
            found[f"{attention}/{part}/bias"] = normal(HEADS, WIDTH)
        found[f"{attention}/out/kernel"] = normal(HEADS, WIDTH, D)
        found[f"{attention}/out/bias"] = normal(D)
        for k, (inner, outer) in enumerate(((D, M), (M, D))):
            found[f"{block}/MlpBlock_3/Dense_{k}/kernel"] = normal(inner, outer)
            found[f"{block}/MlpBlock_3/Dense_{k}/bias"] = normal(outer)
    return found


def norm(x: np.ndarray, w: Arrays, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * w[f"{name}/scale"] + w[f"{name}/bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def reference(w: Arrays, image: np.ndarray, *, pre_logits: bool) -> np.ndarray:
    """Equations 1 to 8 on one image, ``h w c``, with the arrays as they stand in the file."""
    rows, cols = image.shape[0] // PATCH, image.shape[1] // PATCH
    tokens = [w["cls"][0, 0]]
    for r in range(rows):
        for c in range(cols):
            patch = image[r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH]
            token = np.einsum("abc,abcd->d", patch, w["embedding/kernel"]) + w["embedding/bias"]
            tokens.append(token)
    x = np.stack(tokens) + w["Transformer/posembed_input/pos_embedding"][0]
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, w, f"{block}/LayerNorm_0")
        q, k, v = (
            np.einsum("td,dhe->hte", y, w[f"{attention}/{part}/kernel"])
            + w[f"{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = np.einsum("hte,hse->hts", q, k) / math.sqrt(WIDTH)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        seen = np.einsum("hts,hse->hte", weights, v)
        x = x + np.einsum("hte,hed->td", seen, w[f"{attention}/out/kernel"])
        x = x + w[f"{attention}/out/bias"]
        y = norm(x, w, f"{block}/LayerNorm_2")
        mlp = f"{block}/MlpBlock_3"
        y = gelu(y @ w[f"{mlp}/Dense_0/kernel"] + w[f"{mlp}/Dense_0/bias"])
        x = x + y @ w[f"{mlp}/Dense_1/kernel"] + w[f"{mlp}/Dense_1/bias"]
    y = norm(x, w, "Transformer/encoder_norm")[0]
    if pre_logits:
        y = np.tanh(y @ w["pre_logits/kernel"] + w["pre_logits/bias"])
    return y @ w["head/kernel"] + w["head/bias"]


@pytest.mark.parametrize("pre_logits", [False, True])
def test_the_logits_are_those_of_the_papers_formulae(pre_logits: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = random_npz(rng, pre_logits=pre_logits)
    path = tmp_path / "vit.npz"
    np.savez(path, allow_pickle=False, **arrays)
    ours = load_foreign(path)
    assert (ours.model.config.num_heads, ours.model.config.img_size) == (HEADS, 12)
    images = rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    wanted = np.stack([reference(arrays, image, pre_logits=pre_logits) for image in images])
    with torch.inference_mode():
        logits = ours.model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    # Measured: 9.5e-7, where logits are of order 1.
    np.testing.assert_allclose(logits.numpy(), wanted, rtol=0, atol=1e-5)
