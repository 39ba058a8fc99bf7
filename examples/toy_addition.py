"""The toy task of the quickstart, small enough for two CPU cores: adding two numbers.

Holds the exercises, the reward, the tokenizer, and the base model: a Qwen2 of 0.8 million weights, made from scratch.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

LARGEST_NUMBER = 49
LONGEST_ANSWER = 3  # tokens: two digits and the end of the text
LONGEST_TEXT = 9  # tokens: 49+49=98 and the end of the text
UNANSWERED = "?"
PRETRAINING_STEPS = 200
PRETRAINING_BATCH = 256


def solved_exercises(count: int, seed: int) -> list[dict[str, str]]:
    """Rows of a prompt-and-completion data set as TRL's trainers take it, such as 12+7= and 19."""
    chance = random.Random(seed)
    pairs = [(chance.randint(0, LARGEST_NUMBER), chance.randint(0, LARGEST_NUMBER)) for _ in range(count)]
    return [{"prompt": f"{first}+{second}=", "completion": str(first + second)} for first, second in pairs]


def right_answer(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """The reward: 1 for the right sum, 0 for anything else."""
    sums = [sum(int(number) for number in prompt.removesuffix("=").split("+")) for prompt in prompts]
    return [float(completion == str(total)) for completion, total in zip(completions, sums, strict=True)]


def share_of_right_answers(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, exercises: int = 2048) -> float:
    """Mean reward of answers sampled at temperature 1, on exercises that are the same at each call."""
    prompts = [row["prompt"] for row in solved_exercises(exercises, seed=1)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with torch.inference_mode():
        texts = model.eval().generate(**inputs, do_sample=True, top_k=0, max_new_tokens=LONGEST_ANSWER)
    answers = tokenizer.batch_decode(texts[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(right_answer(prompts, answers)) / len(prompts)


def pretrain(directory: Path, steps: int = PRETRAINING_STEPS) -> Iterator[float]:
    """Train the base model from scratch and save it; yields the loss of each step.

    Half of the exercises in its texts are left unanswered, 12+7=?, as exercises in a book are. So the model can add,
    and often does not: something that reinforcement learning can change without teaching anything new.
    """
    torch.manual_seed(0)
    tokenizer = _make_tokenizer()
    model = _make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        loss = model(**_texts(tokenizer, seed=1000 + step)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield loss.item()
    # As models are published.
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _make_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character."""
    tokens = ["<pad>", "<end>", UNANSWERED, *"0123456789+="]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def _make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    width = 128
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            # The usual 0.02 suits models that are ten times as wide: 1/√1536 = 0.026.
            initializer_range=1 / math.sqrt(width),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _texts(tokenizer: PreTrainedTokenizerFast, seed: int) -> dict[str, torch.Tensor]:
    """A batch of exercises and answers; the loss is taken of the answers."""
    rows = solved_exercises(PRETRAINING_BATCH, seed)
    for row in rows[::2]:
        row["completion"] = UNANSWERED
    texts = [row["prompt"] + row["completion"] + tokenizer.eos_token for row in rows]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    prompt_lengths = torch.tensor([len(row["prompt"]) for row in rows])
    position = torch.arange(batch["input_ids"].shape[1])
    is_answer = (position >= prompt_lengths[:, None]) & (batch["attention_mask"] == 1)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "labels": batch["input_ids"].masked_fill(~is_answer, -100),
    }
