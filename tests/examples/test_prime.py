from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import prime
import pytest
import torch
from toy_command import Command
from transformers import AutoModelForCausalLM

from tests.examples.arrivals import assert_the_run_arrived, even_length, logged
from tests.service.running import Client
from tests.tiny import PROMPTS, save_model

# They look at one training.
pytestmark = pytest.mark.xdist_group("prime")

STEPS = 3
BATCH = 32


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prime, "BATCH", BATCH)


def command(model: Path, output: Path, target: str | None = None) -> Command:
    return Command(model, target, output, STEPS, seed=0)


def test_what_a_run_reports_is_what_it_trained(model: Path, tmp_path: Path, client: Client) -> None:
    callback = prime.train(command(model, tmp_path, client.listening.grpc_address), PROMPTS * 8, even_length)
    assert callback.run_id is not None
    assert_the_run_arrived(client, callback.run_id, model, tmp_path / "final", STEPS)
    logs = [log for log in logged(client, callback.run_id) if "loss" in log]
    # Nothing has been learnt yet at the first step: log 2, and no process reward.
    assert logs[0]["reward_model/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert logs[0]["reward_model/process_reward"] == 0
    assert logs[-1]["reward_model/process_reward"] != 0


class Recording(prime.PrimeTrainer):
    """Keeps each batch with its outcomes, and the reward model as it was before it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[dict[str, Any], torch.Tensor, dict[str, torch.Tensor]]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        before = {name: tensor.clone() for name, tensor in self.reward_model.model.state_dict().items()}
        batch = super()._generate_and_score_completions(inputs)
        self.seen.append((batch, self._outcomes, before))
        return batch


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prime, "BATCH", BATCH)
        patch.setattr(prime, "PrimeTrainer", Recording)
        trainer = prime.make_trainer(command(model, tmp_path_factory.mktemp("run")), PROMPTS * 8, even_length)
    trainer.train()
    return trainer


def log_prob(model: torch.nn.Module, text: torch.Tensor, at: int) -> float:
    """log π(token at a place | the tokens before it), of one text without padding."""
    with torch.no_grad():
        logits = model(text[None, :at]).logits[0, -1].double()
    return float(logits[text[at]] - logits.logsumexp(-1))


def test_advantages_are_those_of_the_paper_with_the_rewards_of_before_the_update(
    trained: Recording, model: Path
) -> None:
    batch, outcomes, before = trained.seen[-1]
    judge = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    judge.load_state_dict(before)
    rewards = []  # of each completion, one for each token: β·(log π_φ − log π_ref)
    for row in range(prime.GENERATIONS):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        text = torch.cat([prompt, completion])
        places = range(len(prompt), len(text))
        rewards.append([0.05 * (log_prob(judge, text, at) - log_prob(reference, text, at)) for at in places])
    means = [sum(row) / len(row) for row in rewards]
    labels = outcomes[: prime.GENERATIONS].tolist()
    assert any(abs(reward) > 1e-4 for row in rewards for reward in row)
    for i, row in enumerate(rewards):
        others = [j for j in range(prime.GENERATIONS) if j != i]
        baseline = sum(means[j] for j in others) / len(others)
        outcome = labels[i] - sum(labels[j] for j in others) / len(others)
        for t in range(len(row)):
            expected = sum(reward - baseline for reward in row[t:]) + outcome
            assert batch["advantages"][i, t].item() == pytest.approx(expected, abs=2e-6)
        assert not batch["advantages"][i, len(row) :].any()


def test_token_rewards_are_the_log_ratio_of_the_two_models(model: Path, tmp_path: Path) -> None:
    rewarding = prime.ImplicitRewardModel(model, beta=0.3)
    rewarding.model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path, seed=1), dtype=torch.float32)
    tokens = torch.tensor([[0, 5, 6, 7, 8, 9], [4, 5, 9, 8, 1, 0]])  # padding on the left, and on the right
    attention = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    mask = attention[:, 3:]
    rewards = rewarding.token_rewards(tokens, attention, mask)
    for row, first in ((0, 1), (1, 0)):
        text = tokens[row][attention[row].bool()]
        for t in range(int(mask[row].sum())):
            at = 3 - first + t
            expected = 0.3 * (log_prob(rewarding.model, text, at) - log_prob(rewarding.reference, text, at))
            assert rewards[row, t].item() == pytest.approx(expected, abs=1e-5)
    assert rewards[1, 2] == 0


def test_the_reward_model_learns_from_outcomes_alone(model: Path) -> None:
    rewarding = prime.ImplicitRewardModel(model, beta=1.0, learning_rate=1e-3)
    tokens = torch.tensor([[4, 5, 6, 7], [4, 5, 8, 9]] * 4)
    outcomes = torch.tensor([1.0, 0.0] * 4)
    everything, completion = torch.ones_like(tokens), torch.ones_like(tokens[:, 2:])
    frozen = {name: tensor.clone() for name, tensor in rewarding.reference.state_dict().items()}
    losses = [rewarding.learn(rewarding.token_rewards(tokens, everything, completion), outcomes) for _ in range(15)]
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[-1] < losses[0] / 2
    right, wrong = rewarding.token_rewards(tokens, everything, completion)[:2]
    assert right.sum() > 0 > wrong.sum()
    assert all(tensor.equal(frozen[name]) for name, tensor in rewarding.reference.state_dict().items())


def test_the_loss_is_the_cross_entropy_of_the_outcomes(model: Path) -> None:
    rewards = torch.tensor([[0.5, 1.0], [-0.25, 0.5]], requires_grad=True)
    loss = prime.ImplicitRewardModel(model).learn(rewards, torch.tensor([1.0, 0.0]))
    right, wrong = torch.tensor(1.5).sigmoid(), torch.tensor(0.25).sigmoid()
    assert loss == pytest.approx(float(-(right.log() + (1 - wrong).log()) / 2))


def test_the_reward_model_learns_at_every_step_and_apart_from_the_policy(trained: Recording) -> None:
    states = [before for _, _, before in trained.seen] + [trained.reward_model.model.state_dict()]
    assert len(states) == STEPS + 1
    name = "model.layers.0.mlp.up_proj.weight"
    for earlier, later in pairwise(states):
        assert not earlier[name].equal(later[name])
    policy = trained.model.get_parameter(name)
    assert policy.dtype == torch.bfloat16
    assert not policy.float().equal(states[-1][name])


def test_a_completion_is_compared_with_the_others_of_its_prompt() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, 10.0, 10.0, 40.0])
    assert prime.others_mean(values, 3).tolist() == [4.0, 3.5, 1.5, 25.0, 25.0, 10.0]
