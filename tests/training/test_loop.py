import itertools

import pytest
import torch
from torch import Tensor

from tessera.data.loader import Batch
from tessera.devices import pick_device
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.objectives.classify import Classify
from tessera.recipe import Data, Optim, Recipe
from tessera.training.loop import Metrics, TrainState, step_seed, train, train_step
from tessera.training.loop import make_state as make_fresh

CPU = torch.device("cpu")


def make_state(
    seed: int = 0, drop_rate: float = 0.0, lr: float = 3e-3, recipe: Recipe | None = None
) -> TrainState:
    torch.manual_seed(seed)
    config = parse("vit_mu_patch16", img_size=32, num_classes=4, drop_rate=drop_rate)
    objective = Classify(ViT(config))
    recipe = recipe or Recipe(optim=Optim(lr=lr))
    return make_fresh(objective, recipe, depth=1, stop=100)


def make_batch(size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return {"image": images, "label": torch.arange(size) % 4}


def run(state: TrainState, recipe: Recipe, steps: int) -> list[float]:
    seen: list[float] = []

    def remember(state: TrainState, metrics: Metrics) -> None:
        seen.append(metrics["loss"].item())

    train(
        state,
        itertools.repeat(make_batch(), steps),
        recipe,
        stop=steps,
        lr_of=lambda step: 3e-3,
        every=[(1, remember)],
        device=CPU,
    )
    return seen


def weights(state: TrainState) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in state.objective.state_dict().items()}


def test_one_batch_is_learnt_by_heart() -> None:
    losses = run(make_state(), Recipe(), 80)
    assert losses[0] == pytest.approx(torch.log(torch.tensor(4.0)).item(), abs=1e-5)
    assert losses[-1] < 0.05


def test_the_same_seed_gives_the_same_weights_bit_for_bit() -> None:
    one, two, other = make_state(drop_rate=0.1), make_state(drop_rate=0.1), make_state(seed=1)
    for state in (one, two, other):
        run(state, Recipe(), 5)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(two)[name])
    assert any(not torch.equal(t, weights(other)[n]) for n, t in weights(one).items())


def test_the_seed_of_the_recipe_decides_dropout() -> None:
    losses = [run(make_state(drop_rate=0.3), Recipe(seed=seed), 5)[-1] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_do_not_change_the_gradient_beyond_rounding(micro: int) -> None:
    gradients = []
    for size in (None, micro):
        state = make_state()
        run(state, Recipe(), 3)  # away from the zero head, so that every gradient counts
        recipe = Recipe(data=Data(micro_batch_size=size), optim=Optim(clip_grad_norm=None))
        train_step(state, make_batch(), recipe, lr=0.0, device=CPU)
        gradients.append({n: p.grad for n, p in state.objective.named_parameters()})
    for name, whole in gradients[0].items():
        assert whole is not None
        # Measured: at most 9e-8 where gradients are of order 1e-1.
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-6)


def test_actions_come_at_their_interval_and_after_the_last_step() -> None:
    seen: list[tuple[str, int]] = []
    state = make_state()
    train(
        state,
        itertools.repeat(make_batch(), 7),
        Recipe(),
        stop=7,
        lr_of=lambda step: 0.0,
        every=[
            (3, lambda state, _: seen.append(("a", state.step))),
            (3, lambda state, _: seen.append(("b", state.step))),
        ],
        device=CPU,
    )
    assert seen == [(name, step) for step in (3, 6, 7) for name in ("a", "b")]


def test_clipping_bounds_the_gradient() -> None:
    state = make_state()
    recipe = Recipe(optim=Optim(clip_grad_norm=0.01))
    norm = train_step(state, make_batch(), recipe, lr=0.0, device=CPU)["grad_norm"]
    assert norm > 0.01  # what is reported is the norm before clipping
    after = torch.cat(
        [p.grad.flatten() for p in state.objective.parameters() if p.grad is not None]
    )
    assert after.norm() == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_trains_too() -> None:
    losses = run(make_state(), Recipe(precision="bfloat16"), 80)
    assert losses[-1] < 0.1


def test_step_seeds_differ_between_steps_and_between_seeds() -> None:
    seeds = {step_seed(seed, step) for seed in range(10) for step in range(100)}
    assert len(seeds) == 1000


def test_a_device_that_is_not_there_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match="hint: try auto or cpu"):
        pick_device("abacus")
    assert pick_device("cpu") == CPU
