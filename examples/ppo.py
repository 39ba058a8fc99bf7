"""PPO in a plain PyTorch loop, observed by hand: a value head, generalised advantage estimation, clipping.

python examples/ppo.py --target localhost:50051

There is no trainer and no callback. UpdateObserver needs a model, and Reporter a directory; so a loop of verl's, of
OpenRLHF's or of one's own uses them as `train` does: observe after the optimizer step, and hand over what was seen.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from toy_addition import LONGEST_ANSWER, right_answer, solved_exercises
from toy_command import Command, read_command
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from monitor import Observation, UpdateObserver
from monitor.report.registration import new_run_id, registration_message
from monitor.report.reporter import Reporter

BATCH = 256
EPOCHS = 2
MINIBATCHES = 2
POLICY_LEARNING_RATE = 5e-5
VALUE_LEARNING_RATE = 1e-3
# No discount, and a clip of 0.2, as in arXiv 2203.02155.
GAMMA = 1.0
LAMBDA = 0.95
CLIP = 0.2
KL_COEFFICIENT = 0.02

Reward = Callable[[list[str], list[str]], list[float]]


class ActorCritic(nn.Module):
    """A language model, the policy, and a value head on its last hidden states."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy
        self.value = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, tokens: Tensor, attention: Tensor, completion: int) -> tuple[Tensor, Tensor]:
        """Return log π(token) of the last `completion` tokens, and the values of the texts before each of them."""
        output = self.policy(**_inputs(tokens, attention), output_hidden_states=True)
        states = output.hidden_states[-1][:, -completion - 1 : -1]
        return _log_probs(output.logits, tokens, completion), self.value(states.float()).squeeze(-1)


@dataclass(frozen=True)
class Experience:
    """Sampled completions, padded on the right, after prompts, padded on the left, and what is to be learnt from them.

    Shapes: tokens and attention (batch, prompt + completion), rewards (batch,), all others (batch, completion).
    """

    tokens: Tensor
    attention: Tensor
    mask: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    rewards: Tensor

    def rows(self, rows: Tensor) -> "Experience":
        return Experience(*[tensor[rows] for tensor in astuple(self)])


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = GAMMA, lam: float = LAMBDA
) -> tuple[Tensor, Tensor]:
    """Return the advantages Âₜ = Σₗ (γλ)ˡ δₜ₊ₗ with δₜ = rₜ + γVₜ₊₁ − Vₜ, and the returns Âₜ + Vₜ.

    Source: arXiv 1506.02438, equation 16. A text is worth nothing more once it has ended, where `mask` turns to 0.
    """
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    residuals = (rewards + gamma * following - values) * mask
    advantages = torch.zeros_like(residuals)
    advantage = torch.zeros_like(residuals[:, 0])
    for position in reversed(range(residuals.shape[1])):
        advantage = residuals[:, position] + gamma * lam * advantage
        advantages[:, position] = advantage
    return advantages, advantages + values


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return −mean min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) over the tokens, ρ = π/π_old (arXiv 1707.06347, equation 7)."""
    ratio = (log_probs - old_log_probs).exp()
    return -masked_mean(torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages), mask)


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the tokens, halved."""
    return masked_mean((values - returns) ** 2, mask) / 2


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages of mean 0 and variance 1 over the tokens."""
    centred = advantages - masked_mean(advantages, mask)
    return centred / (masked_mean(centred**2, mask) + 1e-8).sqrt()


@torch.no_grad()
def collect(
    model: ActorCritic,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    reward: Reward,
) -> Experience:
    """Sample a completion of each prompt, and work out its advantages.

    A token's reward is −β log(π/π_ref), which keeps the policy near its reference; the last one also gets the reward of
    the whole completion (arXiv 2203.02155).
    """
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    tokens = model.policy.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=LONGEST_ANSWER)
    completions = tokens[:, inputs["input_ids"].shape[1] :]
    length = completions.shape[1]
    ends = completions == tokenizer.eos_token_id
    mask = (ends.cumsum(1) - ends.long() == 0).long()  # up to the first end of the text, and with it
    attention = torch.cat([inputs["attention_mask"], mask], dim=1)
    rewards = torch.tensor(reward(prompts, tokenizer.batch_decode(completions, skip_special_tokens=True)))

    log_probs, values = model(tokens, attention, length)
    reference_log_probs = _log_probs(reference(**_inputs(tokens, attention)).logits, tokens, length)
    token_rewards = KL_COEFFICIENT * (reference_log_probs - log_probs)
    token_rewards[torch.arange(len(prompts)), mask.sum(1) - 1] += rewards
    advantages, returns = generalised_advantages(token_rewards, values, mask)
    return Experience(tokens, attention, mask, log_probs, whitened(advantages, mask), returns, rewards)


def minibatches(collect_more: Callable[[], Experience]) -> Iterator[Experience]:
    """Yield, without end, parts of an experience drawn at random; after EPOCHS passes over it, of the next one."""
    while True:
        experience = collect_more()
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(experience.rewards)).chunk(MINIBATCHES):
                yield experience.rows(rows)


def make_optimizer(model: ActorCritic) -> torch.optim.Optimizer:
    groups = [
        {"params": model.policy.parameters(), "lr": POLICY_LEARNING_RATE},
        {"params": model.value.parameters(), "lr": VALUE_LEARNING_RATE},
    ]
    # Fused: it rounds to bfloat16 once in a step, where the others round several times.
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


def learn(model: ActorCritic, optimizer: torch.optim.Optimizer, batch: Experience) -> dict[str, float]:
    """Make one optimizer step, and return what is worth logging."""
    log_probs, values = model(batch.tokens, batch.attention, batch.mask.shape[1])
    of_policy = policy_loss(log_probs, batch.log_probs, batch.advantages, batch.mask)
    of_values = value_loss(values, batch.returns, batch.mask)
    optimizer.zero_grad()
    (of_policy + of_values).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    reward = batch.rewards.mean().item()
    return {"policy_loss": of_policy.item(), "value_loss": of_values.item(), "reward": reward}


def train(
    command: Command,
    prompts: Sequence[str],
    reward: Reward,
    *,
    name: str = "ppo",
    labels: Mapping[str, str] | None = None,
    rollout: int = BATCH,
    tolerances: Sequence[float] = (),
    seen: Callable[[Observation], None] = lambda observation: None,
) -> tuple[str, Observation]:
    """Train a model and write it to `final` in the output directory; observe every optimizer step.

    Args:
        name: of the run.
        labels: of the run, beside algorithm and seed.
        rollout: completions that are sampled at a time.
        tolerances: count the weights that move further, too.
        seen: called with each observation.

    Returns:
        identity of the run, and its last observation.
    """
    torch.manual_seed(command.seed)
    chance = random.Random(command.seed)
    tokenizer = AutoTokenizer.from_pretrained(command.model)
    # The optimizer steps bfloat16 weights, as many RL runs do: small updates are rounded away.
    policy, reference = (AutoModelForCausalLM.from_pretrained(command.model, dtype=torch.bfloat16) for _ in range(2))
    model = ActorCritic(policy)
    optimizer = make_optimizer(model)
    batches = minibatches(lambda: collect(model, reference, tokenizer, chance.choices(prompts, k=rollout), reward))

    # Only the policy: the value head is not served. The reference is in memory anyway, and is the base without a copy.
    observer = UpdateObserver(policy, base=reference.requires_grad_(False), tolerances=tolerances)
    registration = registration_message(
        observer,
        run_id=new_run_id(name),
        name=name,
        model=str(command.model),
        base_source=str(command.model),
        labels={"algorithm": "PPO", "seed": str(command.seed), **(labels or {})},
    )
    directory = command.output / "sparsity_monitor"
    with Reporter(registration, directory, command.target) as reporter:
        for step, batch in zip(range(1, command.steps + 1), batches, strict=False):
            logs = learn(model, optimizer, batch)
            observation = observer.observe(step)
            reporter.report(observation)
            reporter.log(step, logs)
            seen(observation)
            print(f"step {step}: reward {logs['reward']:.2f}, unchanged weights {observation.cumulative_sparsity:.1%}")
    observer.save_update_mask(directory / "update_mask.safetensors", registration.run_id)
    policy.save_pretrained(command.output / "final")
    return registration.run_id, observation


def _inputs(tokens: Tensor, attention: Tensor) -> dict[str, Tensor]:
    # Positions count from the first token of the prompt, not from the padding before it, as they do in `generate`.
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": tokens, "attention_mask": attention, "position_ids": positions}


def _log_probs(logits: Tensor, tokens: Tensor, completion: int) -> Tensor:
    log_probs = logits[:, -completion - 1 : -1].float().log_softmax(-1)
    return log_probs.gather(-1, tokens[:, -completion:, None]).squeeze(-1)


def main() -> None:
    command = read_command(__doc__, output="ppo-run", steps=200)
    train(command, [row["prompt"] for row in solved_exercises(10_000, seed=2)], right_answer)


if __name__ == "__main__":
    main()
