from __future__ import annotations

from pathlib import Path

import ppo
import pytest
import torch
from toy_command import Command
from transformers import AutoModelForCausalLM, AutoTokenizer

from monitor.report.spool.items import Spool
from tests.eventually import eventually
from tests.examples.arrivals import assert_the_run_arrived, even_length, logged
from tests.service.running import Client
from tests.tiny import PROMPTS, save_model

STEPS = 6  # a second rollout is begun


def command(model: Path, output: Path, target: str | None = None) -> Command:
    return Command(model, target, output, STEPS, seed=0)


def test_what_a_plain_loop_reports_is_what_it_trained(model: Path, tmp_path: Path, client: Client) -> None:
    watch = ppo.train(command(model, tmp_path, client.listening.grpc_address), PROMPTS, even_length)
    assert watch.run_id is not None
    assert_the_run_arrived(client, watch.run_id, model, tmp_path / "final", STEPS)
    logs = logged(client, watch.run_id)
    assert [set(log) for log in logs] == [{"policy_loss", "value_loss", "reward"}] * STEPS
    # Two minibatches of 128 have the mean reward of one rollout of 256.
    assert 0 < logs[0]["reward"] < 1
    assert client.run(watch.run_id).registration.labels == {"algorithm": "PPO", "seed": "0"}


def test_a_reward_that_raises_fails_the_run(model: Path, tmp_path: Path, client: Client) -> None:
    def broken(prompts: list[str], completions: list[str]) -> list[float]:
        raise ValueError("no verifier")

    with pytest.raises(ValueError, match="no verifier"):
        ppo.train(command(model, tmp_path, client.listening.grpc_address), PROMPTS, broken)
    (attempt,) = Spool(tmp_path / "sparsity_monitor").attempts()
    eventually(lambda: client.is_over(attempt.key.run_id))
    assert client.run(attempt.key.run_id).reason == "ValueError: no verifier"


def ragged(batch: int, length: int) -> torch.Tensor:
    """A mask of completions of different lengths, the longest and a single token among them."""
    lengths = torch.arange(batch) % length + 1
    return (torch.arange(length) < lengths[:, None]).long()


def test_generalised_advantages_are_the_sum_of_their_definition() -> None:
    torch.manual_seed(0)
    batch, length, gamma, lam = 6, 5, 0.9, 0.8
    mask = ragged(batch, length)
    rewards, values = torch.randn(2, batch, length, dtype=torch.float64)
    advantages, returns = ppo.generalised_advantages(rewards, values, mask, gamma, lam)
    for row in range(batch):
        end = int(mask[row].sum())
        worth = [*values[row, :end].tolist(), 0.0]
        residuals = [float(rewards[row, t]) + gamma * worth[t + 1] - worth[t] for t in range(end)]
        for t in range(length):
            expected = sum((gamma * lam) ** (s - t) * residuals[s] for s in range(t, end))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-12)
            assert returns[row, t].item() == pytest.approx(expected + (worth[t] if t < end else 0.0), abs=1e-12)


def test_with_lambda_1_the_returns_are_the_discounted_rewards_to_come() -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 3, 4, dtype=torch.float64)
    _, returns = ppo.generalised_advantages(rewards, values, torch.ones(3, 4), gamma=0.9, lam=1.0)
    for t in range(4):
        expected = sum(0.9 ** (s - t) * rewards[:, s] for s in range(t, 4))
        torch.testing.assert_close(returns[:, t], expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, -2.0),  # at the old policy: the policy gradient
        (1.1, 2.0, -2.2),
        (1.3, 2.0, 0.0),  # raised enough already
        (0.7, 2.0, -1.4),  # lowered although it was good: no clip holds it back
        (0.7, -2.0, 0.0),  # lowered enough already
        (1.3, -2.0, 2.6),  # raised although it was bad
    ],
)
def test_the_policy_gradient_ends_where_the_clip_does_on_the_improving_side(
    ratio: float, advantage: float, slope: float
) -> None:
    log_prob = torch.tensor([[ratio]]).log().requires_grad_()
    loss = ppo.policy_loss(log_prob, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1))
    loss.backward()
    assert log_prob.grad.item() == pytest.approx(slope)


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    mask = ragged(4, 5)
    first, second, third = torch.randn(3, 4, 5)
    noise = torch.randn(4, 5) * (1 - mask)
    for loss in (
        ppo.policy_loss(first + noise, second, third, mask),
        ppo.policy_loss(first, second + noise, third, mask),
    ):
        torch.testing.assert_close(loss, ppo.policy_loss(first, second, third, mask))
    torch.testing.assert_close(ppo.value_loss(first + noise, second, mask), ppo.value_loss(first, second, mask))
    tokens = mask.bool()
    torch.testing.assert_close(ppo.value_loss(first, second, mask), ((first - second)[tokens] ** 2).mean() / 2)


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_tokens() -> None:
    mask = ragged(6, 5)
    whitened = ppo.whitened(torch.randn(6, 5) * 3 + 7, mask)[mask.bool()]
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6)
    assert whitened.var(unbiased=False).item() == pytest.approx(1, abs=1e-5)


def load(model: Path) -> ppo.ActorCritic:
    """A model whose completions end early often enough that some are shorter than others."""
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        policy.lm_head.weight[policy.config.eos_token_id] += 0.3
    return ppo.ActorCritic(policy)


def test_an_experience_has_the_log_probabilities_of_each_completion_alone(model: Path) -> None:
    actor_critic, reference = load(model), load(model).policy
    tokenizer = AutoTokenizer.from_pretrained(model)
    experience = ppo.collect(actor_critic, reference, tokenizer, PROMPTS * 8, even_length)
    assert len(set(experience.mask.sum(1).tolist())) > 1
    for row in range(0, 32, 5):
        text = experience.tokens[row][experience.attention[row].bool()]
        count = int(experience.mask[row].sum())
        with torch.no_grad():
            logits = actor_critic.policy(text[None]).logits[0]
        expected = [logits[at - 1].log_softmax(-1)[text[at]] for at in range(len(text) - count, len(text))]
        torch.testing.assert_close(experience.log_probs[row, :count], torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_the_reward_of_the_last_token_is_the_outcome(model: Path) -> None:
    # The reference is the policy itself, and the value head starts at 0: nothing else is left.
    actor_critic = load(model)
    experience = ppo.collect(
        actor_critic, actor_critic.policy, AutoTokenizer.from_pretrained(model), PROMPTS * 8, even_length
    )
    assert len(set(experience.mask.sum(1).tolist())) > 1
    assert set(experience.rewards.tolist()) == {0.0, 1.0}
    for row, outcome in enumerate(experience.rewards.tolist()):
        count = int(experience.mask[row].sum())
        expected = [0.95 ** (count - 1 - t) * outcome for t in range(count)]
        torch.testing.assert_close(experience.returns[row, :count], torch.tensor(expected))
        assert not experience.returns[row, count:].any()


def test_every_token_costs_its_distance_from_the_reference(model: Path, tmp_path: Path) -> None:
    actor_critic, reference = load(model), load(save_model(tmp_path, seed=1)).policy
    tokenizer = AutoTokenizer.from_pretrained(model)
    experience = ppo.collect(actor_critic, reference, tokenizer, PROMPTS * 2, lambda prompts, _: [0.0] * len(prompts))
    with torch.no_grad():
        length = experience.mask.shape[1]
        of_reference, _ = ppo.ActorCritic(reference)(experience.tokens, experience.attention, length)
    rewards = -0.02 * (experience.log_probs - of_reference) * experience.mask
    expected = [sum(0.95 ** (s - t) * rewards[:, s] for s in range(t, length)) for t in range(length)]
    torch.testing.assert_close(experience.returns, torch.stack(expected, dim=1))


def test_minibatches_are_all_of_an_experience_before_the_next(model: Path) -> None:
    def experience(number: int) -> ppo.Experience:
        rewards = torch.arange(8.0) + 100 * number
        return ppo.Experience(*[rewards[:, None]] * 6, rewards)

    numbers = iter(range(10))
    batches = ppo.minibatches(lambda: experience(next(numbers)))
    for number in range(2):
        for _ in range(ppo.EPOCHS):
            rewards = torch.cat([next(batches).rewards for _ in range(ppo.MINIBATCHES)])
            assert sorted(rewards.tolist()) == experience(number).rewards.tolist()
