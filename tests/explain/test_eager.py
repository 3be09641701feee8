"""A of every block and pool against softmax written out: head by head, pair by pair, in float64.

The reference reads weights and the tokens that a module is given, and calls nothing of it: queries
and keys, norms, turns, terms of pairs and patterns are made here from the formulas.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch
from kinds import KINDS, image_for, make
from torch import Tensor, nn

from tessera.explain.attention import watched
from tessera.models.vit import ViT

MORE: dict[str, dict[str, Any]] = {
    "swiglu": {"mlp": "swiglu"},
    "rms norms": {"norm": "rmsnorm", "qk_norm": True, "embed_norm": True},
    "wide heads, no biases": {"head_dim": 16, "qkv_bias": False},
    "waves": {"pos_embed": "sincos2d", "pos_place": "shared"},
    "tables at every block": {"pos_embed": "learned", "pos_place": "every", "num_registers": 2},
    "rotary and registers": {"pos_embed": "rope2d", "embed_dim": 32, "num_registers": 2},
    "rotary, learned": {"pos_embed": "rope2d_mixed", "embed_dim": 32},
    "rotary, learned at every block": {
        **{"pos_embed": "rope2d_mixed", "embed_dim": 32, "pos_place": "every", "locality": True},
    },
    "clipped vectors, registers": {"pos_embed": "shaw", "pos_clip": 3, "num_registers": 2},
    "clipped biases, registers": {"pos_embed": "shaw_bias", "pos_clip": 3, "num_registers": 2},
    "vectors and locality": {"pos_embed": "shaw", "locality": True},
    "raster offsets": {"pos_embed": "relative", "num_registers": 2},
    "biases and class token": {"pos_embed": "bias2d"},
    "biases, all special tokens": {
        **{"pos_embed": "bias2d", "dist_token": True, "dist_head": True, "num_registers": 2},
    },
    "biases and mean": {"pos_embed": "bias2d", "cls_token": False, "pool": "avg"},
    "windows": {"attention": "window", "attention_window": 2},
    "windows, biases, locality": {
        **{"attention": "shifted_window", "attention_window": 2, "pos_embed": "bias2d"},
        "locality": True,
    },
    "local": {"attention": "local", "attention_window": 3},
    "neighborhood": {"attention": "neighborhood", "attention_window": 3},
    "axial": {"attention": "axial", "depth": 2},
    "strided": {"attention": "strided"},
    "fixed": {"attention": "fixed", "num_heads": 3},
    "sequence pool": {"cls_token": False, "pool": "seq"},
    "map of wide heads": {"cls_token": False, "pool": "map", "num_heads": 3, "mlp": "swiglu"},
}

ALL = KINDS | MORE

PLAIN = {"pos_embed": "none", "qk_norm": False, "locality": False, "attention": "global"}
"""What leaves only softmax(q k^T / sqrt(e))."""


ADDED = ("learned", "sincos2d")
"""Position schemes that attention does not know of."""


class Eager:
    """The reference for one model; ``without`` leaves parts out, to see that they matter."""

    def __init__(self, model: ViT, without: dict[str, Any] | None = None) -> None:
        self.model, self.c = model, model.config
        self.parts = {name: getattr(model.config, name) for name in PLAIN} | (without or {})
        self.prefix, self.registers = self.c.positioned_prefix, self.c.num_registers
        self.specials = self.prefix + self.registers
        self.rows, self.columns = self.c.grid

    def weights(self, number: int, x: np.ndarray) -> np.ndarray:
        """A of a block, ``h t t``, for the tokens ``t d`` that its attention is given."""
        block, heads = cast(Any, self.model.blocks[number]), self.c.num_heads
        own = self.tables(number)
        queries, keys, _ = self.projected(block.attn, x)
        found = np.zeros((heads, len(x), len(x)))
        for h, (q, k) in enumerate(zip(queries, keys, strict=True)):
            if self.parts["qk_norm"]:
                q, k = normed(q, block.attn.q_norm), normed(k, block.attn.k_norm)
            if "rope" in self.parts["pos_embed"]:
                q = np.stack([self.turned(row, i, h, own) for i, row in enumerate(q)])
                k = np.stack([self.turned(row, i, h, own) for i, row in enumerate(k)])
            lsa = self.parts["locality"]
            q = q / (array(block.attn.locality.temperature)[h] if lsa else q.shape[1] ** 0.5)
            for i in range(len(x)):
                for j in range(len(x)):
                    logit = q[i] @ k[j] + self.term(h, i, j, q[i], own)
                    found[h, i, j] = np.exp(logit) if self.sees(number, h, i, j) else 0
            found[h] /= found[h].sum(axis=1, keepdims=True)
        return found

    def projected(self, attn: Any, x: np.ndarray) -> list[list[np.ndarray]]:
        """Queries, keys and values, head by head: equation 5."""
        made = x @ array(attn.qkv.weight).T
        made += 0 if attn.qkv.bias is None else array(attn.qkv.bias)
        return [np.split(part, self.c.num_heads, axis=1) for part in np.split(made, 3, axis=1)]

    def output(self, number: int, x: np.ndarray) -> np.ndarray:
        """What the attention of a block answers: equations 7 and 8."""
        attn, a = cast(Any, self.model.blocks[number]).attn, self.weights(number, x)
        summed = [a[h] @ v for h, v in enumerate(self.projected(attn, x)[2])]
        if self.c.pos_embed == "shaw_values":
            table = self.tables(number)["values"]
            for h, i, j in np.ndindex(a.shape):
                summed[h][i] += a[h, i, j] * table[self.clipped(i, j)]
        return np.concatenate(summed, axis=1) @ array(attn.proj.weight).T + array(attn.proj.bias)

    def tables(self, number: int) -> dict[str, np.ndarray]:
        """The parameters of the position scheme that a block has, or that all share."""
        every = self.c.place == "every"
        scheme = cast(Any, self.model.blocks[number]).pos_embed if every else self.model.pos_embed
        return {name: array(table) for name, table in scheme.named_parameters()}

    def place(self, i: int) -> tuple[int, int] | None:
        """Row and column of a token; None of those that are no patch."""
        return None if i < self.specials else divmod(i - self.specials, self.columns)

    def turned(self, v: np.ndarray, i: int, h: int, own: dict[str, np.ndarray]) -> np.ndarray:
        """Channels m and m + e/2 as a complex number, times exp(sqrt(-1) angle)."""
        at, half = self.place(i), len(v) // 2
        if at is None:
            return v
        (y, x), quarter = at, half // 2
        if self.parts["pos_embed"] == "rope2d_mixed":
            angles = own["freqs"][0, h] * x + own["freqs"][1, h] * y
        else:  # DINOv3: centres in [-1, 1], periods 100^(m / (e/4)), rows first
            centres = 2 * (y + 0.5) / self.rows - 1, 2 * (x + 0.5) / self.columns - 1
            angles = np.array(
                [2 * np.pi * c / 100 ** (m / quarter) for c in centres for m in range(quarter)]
            )
        z = (v[:half] + 1j * v[half:]) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag])

    def term(self, h: int, i: int, j: int, q: np.ndarray, own: dict[str, np.ndarray]) -> float:
        """What a relative scheme adds to the logit of the pair; ``q`` is divided already."""
        if self.parts["pos_embed"] == "bias2d":
            a, b, table = self.place(i), self.place(j), own["table"][:, h]
            if a is not None and b is not None:
                dy, dx = a[0] - b[0] + self.rows - 1, a[1] - b[1] + self.columns - 1
                return float(table[dy * (2 * self.columns - 1) + dx])
            return float(table[-3 if b is not None else -2 if a is not None else -1])
        first, second = self.counted(i), self.counted(j)
        if first is None or second is None:
            return 0.0
        match self.parts["pos_embed"]:
            case "shaw" | "shaw_values":
                return float(q @ own["keys"][self.clipped(i, j)])
            case "shaw_bias":
                return float(own["table"][self.clipped(i, j), h])
            case "relative":
                return float(q @ own["table"][h, second - first + own["table"].shape[1] // 2])
        return 0.0

    def clipped(self, i: int, j: int) -> int:
        """The row of a pair in a table of 2k + 1 offsets; neither is a register."""
        first, second, k = self.counted(i), self.counted(j), self.c.pos_clip
        assert first is not None
        assert second is not None
        return max(-k, min(k, second - first)) + k

    def counted(self, i: int) -> int | None:
        """The number of a token in the sequence, in which registers do not count."""
        if self.prefix <= i < self.specials:
            return None
        return i if i < self.prefix else i - self.registers

    def sees(self, number: int, h: int, i: int, j: int) -> bool:
        """Whether token i may look at token j."""
        if self.parts["locality"] and i == j:
            return False
        a, b, w = self.place(i), self.place(j), self.c.attention_window
        if a is None or b is None or self.parts["attention"] == "global":
            return True
        (y, x), (v, u), first = a, b, h < (self.c.num_heads + 1) // 2
        match self.parts["attention"]:
            case "local":
                return max(abs(y - v), abs(x - u)) <= w // 2
            case "neighborhood":  # w rows and w columns, whatever the place
                top = max(0, min(self.rows - w, y - w // 2))
                left = max(0, min(self.columns - w, x - w // 2))
                return top <= v < top + w and left <= u < left + w
            case "window" | "shifted_window" as name:
                start = w // 2 if name == "shifted_window" and number % 2 else 0
                return all(
                    (p < border) == (o < border)
                    for p, o, side in ((y, v, self.rows), (x, u, self.columns))
                    for border in range(start if side > w else 0, side, w)
                )
            case "axial":
                return x == u if number % 2 else y == v
            case "strided":
                near = abs(y * self.columns + x - v * self.columns - u) < self.columns
                return near if first else x == u
            case "fixed":
                return y == v if first else u >= self.columns - max(1, self.columns // 8)
        raise AssertionError(self.parts["attention"])

    def pool(self, tokens: np.ndarray) -> np.ndarray:
        """Weights of the pool, ``h n``, for the tokens that it is given."""
        if self.c.pool == "seq":
            scores = [tokens @ array(self.model.seq_pool.score.weight)[0]]
        else:
            pool, heads, width = self.model.attn_pool, self.c.num_heads, self.c.embed_dim
            q = array(pool.latent)[0, 0] @ array(pool.q.weight).T + array(pool.q.bias)
            k = tokens @ array(pool.kv.weight)[:width].T + array(pool.kv.bias)[:width]
            e = width // heads
            parts = [slice(h * e, h * e + e) for h in range(heads)]
            scores = [k[:, part] @ q[part] / e**0.5 for part in parts]
        made = np.exp(np.stack(scores))
        return made / made.sum(axis=1, keepdims=True)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def normed(v: np.ndarray, norm: Any) -> np.ndarray:
    """LayerNorm or RMSNorm over the channels of every row."""
    if isinstance(norm, nn.LayerNorm):
        v = v - v.mean(axis=1, keepdims=True)
    v = v / np.sqrt((v**2).mean(axis=1, keepdims=True) + norm.eps) * array(norm.weight)
    return v + array(norm.bias) if isinstance(norm, nn.LayerNorm) else v


@contextmanager
def given(model: ViT) -> Iterator[dict[int, np.ndarray]]:
    """Keep the tokens that every attention is given, and at ``depth`` those that the pool is."""
    kept: dict[int, np.ndarray] = {}
    modules: list[nn.Module] = [cast(Any, block).attn for block in model.blocks]
    modules += [getattr(model, name) for name in ("attn_pool", "seq_pool") if hasattr(model, name)]

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[number] = array(args[0][0])

        return hook

    handles = [module.register_forward_pre_hook(keep(i)) for i, module in enumerate(modules)]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def observed(model: ViT, x: Tensor) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """What ``watched`` says of every block and pool, and the tokens that these were given."""
    found: dict[int, Tensor] = {}
    with torch.no_grad(), given(model) as tokens, watched(model, found.__setitem__):
        model.forward_head(model.forward_features(x))
    assert list(found) == list(tokens) == list(range(len(found)))
    return {number: array(a[0]) for number, a in found.items()}, tokens


@pytest.mark.parametrize("kind", ALL)
def test_attention_of_every_block_and_pool_equals_the_eager_reference(kind: str) -> None:
    model = make(ALL[kind])
    reference, depth, x = Eager(model), model.config.depth, image_for(model)
    found, tokens = observed(model, x)
    assert len(found) == depth + (model.config.pool in ("map", "seq"))
    with torch.no_grad():
        recomputed = model.attention_weights(x, range(depth))
    for number in range(depth):
        expected = reference.weights(number, tokens[number])
        # Measured: 1.7e-7 with norms on queries and keys, else 6.5e-8.
        assert np.abs(found[number] - expected).max() <= 1e-5
        assert np.abs(array(recomputed[number][0]) - expected).max() <= 1e-5
    if depth in found:
        # Measured: 9e-9.
        assert np.abs(found[depth] - reference.pool(tokens[depth])).max() <= 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_the_fused_kernel_mixes_by_that_attention(kind: str) -> None:
    model, made = make(ALL[kind]), dict[int, np.ndarray]()
    for number, block in enumerate(model.blocks):
        attn = cast(nn.Module, block.attn)
        attn.register_forward_hook(
            lambda module, args, y, number=number: made.__setitem__(number, array(y[0]))
        )
    with torch.no_grad(), given(model) as tokens:
        model.forward_features(image_for(model))
    for number in range(model.config.depth):
        expected = Eager(model).output(number, tokens[number])
        # Measured: 2.1e-7.
        assert np.abs(made[number] - expected).max() <= 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_what_changes_the_attention_of_a_kind_shows_in_it(kind: str) -> None:
    model = make(ALL[kind])
    found, tokens = observed(model, image_for(model))
    plain = Eager(model, without=PLAIN)
    inside = [name for name, value in PLAIN.items() if getattr(model.config, name) != value]
    if model.config.pos_embed in ADDED:
        inside.remove("pos_embed")
    # Measured: 0.012 at least.
    assert np.abs(found[0] - 1 / found[0].shape[-1]).max() > 1e-3  # it is not flat
    if inside:  # patterns take turns between two blocks, the first of which may look plain
        apart = [np.abs(found[i] - plain.weights(i, tokens[i])).max() for i in (0, 1)]
        # Measured: 0.0068 at least.
        assert max(apart) > 1e-3
