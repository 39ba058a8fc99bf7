"""PRIME on top of TRL's GRPOTrainer: process rewards from a reward model that learns online from outcomes alone.

python examples/prime.py --target localhost:50051

The reward model π_φ is a language model, and a token's reward is β·log(π_φ/π_ref). Trained so that the sum over a
completion tells right ones from wrong ones, it learns by itself which tokens made the difference (arXiv 2502.01456).
The paper's filter of prompts that are too easy or too hard is left out.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from toy_addition import LONGEST_ANSWER, right_answer, solved_exercises
from toy_command import Command, read_command
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from monitor import SparsityCallback

BATCH = 256
GENERATIONS = 8
# The ratio and β are the paper's. Its rates, 5e-7 and 1e-6, would hardly move a model as narrow as the toy.
POLICY_LEARNING_RATE = 5e-5
REWARD_LEARNING_RATE = 1e-4
BETA = 0.05


class ImplicitRewardModel:
    """Rewards tokens by β·log(π_φ/π_ref), and learns φ from the outcomes of whole completions."""

    def __init__(self, directory: Path, beta: float = BETA, learning_rate: float = REWARD_LEARNING_RATE) -> None:
        # In float32, and both: where π_φ has not moved from π_ref, the reward is 0 and not what rounding leaves.
        self.model, self.reference = (
            AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32) for _ in range(2)
        )
        self.reference.requires_grad_(False)
        self.beta = beta
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=0.0)

    def token_rewards(self, tokens: Tensor, attention: Tensor, mask: Tensor) -> Tensor:
        """Return the rewards of the completions' tokens, 0 where `mask` is, with the graph that `learn` needs.

        Shapes: tokens and attention (batch, prompt + completion), mask and result (batch, completion).
        """
        trained, reference = (
            completion_log_probs(model, tokens, attention, mask.shape[1]) for model in (self.model, self.reference)
        )
        return self.beta * (trained - reference) * mask

    def learn(self, token_rewards: Tensor, outcomes: Tensor) -> float:
        """Make one step on the cross-entropy of the outcomes, 1 right and 0 wrong, and return it."""
        loss = binary_cross_entropy_with_logits(token_rewards.sum(dim=1), outcomes)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def completion_log_probs(model: torch.nn.Module, tokens: Tensor, attention: Tensor, length: int) -> Tensor:
    """Return log π of the last `length` tokens, shape (batch, length)."""
    logits = model(input_ids=tokens, attention_mask=attention).logits[:, -length - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[:, -length:, None]).squeeze(-1)


def others_mean(values: Tensor, generations: int) -> Tensor:
    """Return the mean over the other completions of the same prompt, the leave-one-out baseline; shape (batch,)."""
    of_prompt = values.view(-1, generations)
    return ((of_prompt.sum(dim=1, keepdim=True) - of_prompt) / (generations - 1)).view(-1)


def prime_advantages(token_rewards: Tensor, outcomes: Tensor, mask: Tensor, generations: int) -> Tensor:
    """Return the advantage of each token, shape (batch, completion): the sum of two leave-one-out returns.

    Σₛ₌ₜ (r(yₛ) − mean of the others' mean token rewards) + outcome − mean of the others' outcomes
    (arXiv 2502.01456, RLOO, undiscounted; the authors' code also whitens the sum).
    """
    means = (token_rewards * mask).sum(dim=1) / mask.sum(dim=1)
    process = (token_rewards - others_mean(means, generations)[:, None]) * mask
    process_returns = process.flip(1).cumsum(dim=1).flip(1)
    outcome_returns = outcomes - others_mean(outcomes, generations)
    return (process_returns + outcome_returns[:, None]) * mask


class PrimeTrainer(GRPOTrainer):
    """GRPOTrainer with PRIME's advantages. Takes one reward function, the outcome: 1 for right and 0 for wrong.

    For one process: the gradients of the reward model are not averaged over several.
    """

    def __init__(self, *args: Any, reward_model: ImplicitRewardModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reward_model = reward_model

    def _calculate_rewards(self, *args: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args)
        (self._outcomes,) = rewards.unbind(dim=1)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        mask = batch["completion_mask"]
        tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], mask], dim=1)
        # As in the paper's algorithm 1, the rewards are those of before the update; one forward pass serves both.
        token_rewards = self.reward_model.token_rewards(tokens, attention, mask)
        loss = self.reward_model.learn(token_rewards, self._outcomes)
        token_rewards = token_rewards.detach()
        self._metrics["train"]["reward_model/loss"].append(loss)
        self._metrics["train"]["reward_model/process_reward"].append(token_rewards.sum(dim=1).mean().item())
        # One advantage for each token, which GRPOTrainer's loss provides for.
        return batch | {"advantages": prime_advantages(token_rewards, self._outcomes, mask, self.num_generations)}


def make_trainer(command: Command, prompts: list[str], outcome: Any, batch: int | None = None) -> PrimeTrainer:
    """Return the trainer; it samples BATCH completions for each step, or `batch` where that is given."""
    return PrimeTrainer(
        str(command.model),
        reward_funcs=outcome,
        reward_model=ImplicitRewardModel(command.model),
        args=GRPOConfig(
            output_dir=str(command.output),
            max_steps=command.steps,
            seed=command.seed,
            learning_rate=POLICY_LEARNING_RATE,
            lr_scheduler_type="constant",
            per_device_train_batch_size=batch or BATCH,
            num_generations=GENERATIONS,
            max_completion_length=LONGEST_ANSWER,
            # The optimizer steps bfloat16 weights, as many RL runs do: small updates are rounded away.
            model_init_kwargs={"dtype": "bfloat16"},
            bf16=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            activation_checkpointing=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )


def train(command: Command, prompts: list[str], outcome: Any) -> SparsityCallback:
    """Train a model with the monitor attached, and write it to `final` in the output directory."""
    trainer = make_trainer(command, prompts, outcome)
    # The reward model's reference is the initial policy, so it is the base without a copy.
    callback = SparsityCallback(
        command.target,
        "prime",
        base=trainer.reward_model.reference,
        labels={"algorithm": "PRIME", "seed": command.seed},
    ).attach(trainer)
    trainer.train()
    trainer.save_model(str(command.output / "final"))
    return callback


def main() -> None:
    command = read_command(__doc__, output="prime-run", steps=200)
    train(command, [row["prompt"] for row in solved_exercises(10_000, seed=2)], right_answer)


if __name__ == "__main__":
    main()
