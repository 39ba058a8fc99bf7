"""Tiny models, tokenizers and data sets, made on the spot, and trainings with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

# Threads that wait for each other cost ten times what matrices this small gain from them, on a busy machine.
torch.set_num_threads(1)

TEXTS = ["what is two plus two ? four", "hello world , this is a test", "the quick brown fox jumps over a lazy dog"]
PROMPTS = ["what ?", "hello", "the quick", "this is"]


def save_model(directory: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """Write a two-layer Qwen2 in bfloat16 and its tokenizer, as a published checkpoint would be."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<eos>", "<unk>"]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200, special_tokens=special))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def distinct_characters(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    return [float(len(set(completion))) for completion in completions]


def common_arguments(output: Path, *, bf16_weights: bool = False, **changes: Any) -> dict[str, Any]:
    """Settings that every TRL configuration takes; float32 master weights unless `bf16_weights`."""
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-5,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "bf16": False,
        "seed": 0,
    }
    if bf16_weights:
        arguments["model_init_kwargs"] = {"dtype": "bfloat16"}
    return arguments | changes


def plain_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any], *, evaluated: bool = False) -> Trainer:
    """transformers.Trainer, which takes the model itself."""
    arguments = dict(arguments)
    pretrained = AutoModelForCausalLM.from_pretrained(
        model, **{"dtype": "float32"} | arguments.pop("model_init_kwargs", {})
    )
    config = TrainingArguments(**arguments)
    evaluation = token_data(4) if evaluated else None
    return Trainer(pretrained, config, train_dataset=token_data(), eval_dataset=evaluation, callbacks=callbacks)


def end_of_training(trainer: Trainer) -> None:
    """The event that a Trainer which raises leaves out."""
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)


def token_data(rows: int = 32, length: int = 8) -> list[dict[str, list[int]]]:
    """Random tokens, always the same, as plain Trainers take them."""
    generator = torch.Generator().manual_seed(3)
    tokens = [torch.randint(3, 60, (length,), generator=generator).tolist() for _ in range(rows)]
    return [{"input_ids": ids, "labels": ids} for ids in tokens]


def sft_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    data = Dataset.from_dict({"text": TEXTS * 8})
    return SFTTrainer(str(model), SFTConfig(max_length=32, **arguments), train_dataset=data, callbacks=callbacks)


def _preferences() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS * 4, "chosen": [" four"] * 16, "rejected": [" dog"] * 16})


def dpo_trainer(
    model: Path, arguments: dict[str, Any], callbacks: list[Any], *, kind: type[DPOTrainer] = DPOTrainer
) -> Trainer:
    return kind(str(model), args=DPOConfig(**arguments), train_dataset=_preferences(), callbacks=callbacks)


def kto_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    completions = {"completion": [" four", " dog"] * 8, "label": [True, False] * 8}
    data = Dataset.from_dict({"prompt": PROMPTS * 4, **completions})
    return KTOTrainer(str(model), args=KTOConfig(**arguments), train_dataset=data, callbacks=callbacks)


def grpo_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any], *, beta: float = 0.0) -> Trainer:
    config = GRPOConfig(num_generations=4, max_completion_length=8, beta=beta, **arguments)
    data = Dataset.from_dict({"prompt": PROMPTS * 4})
    return GRPOTrainer(
        str(model), reward_funcs=distinct_characters, args=config, train_dataset=data, callbacks=callbacks
    )


def rloo_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    config = RLOOConfig(num_generations=4, max_completion_length=8, **arguments)
    data = Dataset.from_dict({"prompt": PROMPTS * 4})
    return RLOOTrainer(
        str(model), reward_funcs=distinct_characters, args=config, train_dataset=data, callbacks=callbacks
    )


def reward_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    config = RewardConfig(max_length=32, **arguments)
    return RewardTrainer(str(model), args=config, train_dataset=_preferences(), callbacks=callbacks)


def simpo_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = CPOConfig(loss_type="simpo", cpo_alpha=0.0, max_length=32, **arguments)
    return CPOTrainer(
        str(model),
        args=config,
        train_dataset=_preferences(),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=callbacks,
    )


def orpo_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(
        str(model),
        args=ORPOConfig(max_length=32, **arguments),
        train_dataset=_preferences(),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=callbacks,
    )


def online_dpo_trainer(model: Path, arguments: dict[str, Any], callbacks: list[Any]) -> Trainer:
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    return OnlineDPOTrainer(
        model=str(model),
        reward_funcs=distinct_characters,
        args=OnlineDPOConfig(max_new_tokens=8, missing_eos_penalty=1.0, **arguments),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=callbacks,
    )


MakeTrainer = Callable[[Path, dict[str, Any], list[Any]], Trainer]
TRAINERS: dict[str, MakeTrainer] = {
    "trainer": plain_trainer,
    "sft": sft_trainer,
    "dpo": dpo_trainer,
    "kto": kto_trainer,
    "grpo": grpo_trainer,
    "grpo-kl": partial(grpo_trainer, beta=0.04),
    "rloo": rloo_trainer,
    "reward": reward_trainer,
    "simpo": simpo_trainer,
    "orpo": orpo_trainer,
    "online-dpo": online_dpo_trainer,
}
