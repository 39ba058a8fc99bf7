"""What the monitor runs on, each row with the test that proves it: the table of tests/matrix/README.md."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

# The trainers of tests/tiny.py, as people call them.
TRAINER_NAMES = {
    "trainer": "`transformers.Trainer`",
    "sft": "TRL SFT",
    "dpo": "DPO",
    "kto": "KTO",
    "grpo": "GRPO with β = 0",
    "grpo-kl": "GRPO with β > 0",
    "rloo": "RLOO",
    "reward": "Reward",
    "simpo": "experimental CPO with SimPO's loss",
    "orpo": "ORPO",
    "online-dpo": "OnlineDPO",
}


@dataclass(frozen=True)
class Row:
    """One thing that is asked of the monitor.

    Attributes:
        what: a kind of run, a model, an event, or an input.
        answer: "works" or "refused"; or "partly", where something is named in a warning and left out.
        why: what is counted, or why it is refused and what to do.
        test: file::function, which fails where this is not so.
    """

    what: str
    answer: str
    why: str
    test: str

    def markdown(self) -> str:
        file, _ = self.test.split("::")
        return f"| {self.what} | [{self.answer}]({posixpath.relpath(file, 'tests/matrix')}) | {self.why} |"


_TRAINERS = "tests/matrix/test_trainers.py"
_MODELS = "tests/matrix/test_models.py"
_SWITCHED = "tests/matrix/test_requires_grad.py"
_INTERRUPTED = "tests/matrix/test_interruption.py"
_REFUSED = "tests/matrix/test_refusals.py"
_PARALLEL = "tests/parallel/test_trainers.py"
_PLACED = "tests/parallel/test_placement.py"
_ADAPTED = "tests/test_adapters_training.py"
_EFFECTIVE = "tests/observe/weights/test_adapters.py"
_CALLBACK = "tests/test_callback.py"
_KEPT = "tests/training/test_kept.py"
_MEETING = "tests/parallel/test_meeting.py"

SECTIONS: dict[str, list[Row]] = {
    "Trainers": [
        Row(
            ", ".join(TRAINER_NAMES.values()),
            "works",
            "counts are those of the saved weights, in float32 weights under bfloat16 autocast and in pure bfloat16",
            f"{_TRAINERS}::test_counts_are_those_of_the_saved_weights",
        ),
        Row(
            "the same without the callback",
            "works",
            "losses, logs and weights are the same bit for bit",
            f"{_TRAINERS}::test_the_training_is_the_same_bit_for_bit_without_the_callback",
        ),
        Row(
            "a loop of your own, such as PPO",
            "works",
            "`monitor.watch`, without a trainer",
            "tests/examples/test_ppo.py::test_what_a_plain_loop_reports_is_what_it_trained",
        ),
        Row(
            "a loop of your own that is resumed",
            "works",
            "`watch.save(checkpoint)`, and `resume_from=checkpoint`",
            "tests/examples/test_loops.py::test_a_plain_loop_goes_on_from_its_checkpoint_as_the_same_run",
        ),
        Row(
            "a loop of your own on several processes, with DDP or FSDP2",
            "works",
            "`monitor.watch` in each of them; the counts are those of one process",
            "tests/parallel/test_loop.py::test_a_loop_on_two_processes_has_the_counts_of_one",
        ),
        Row(
            "a loop of accelerate",
            "works",
            "`monitor.watch` after `prepare`",
            "tests/examples/test_loops.py::test_a_loop_of_accelerate_reports_what_it_trained",
        ),
        Row(
            "Lightning",
            "works",
            "the callback in examples/lightning_callback.py",
            "tests/examples/test_loops.py::test_a_training_of_lightning_reports_what_it_trained",
        ),
        Row(
            "axolotl, LLaMA-Factory, ms-swift, unsloth",
            "works",
            "the callback; against stand-ins: [which](../../examples/FRAMEWORKS.md)",
            "tests/examples/test_plugins.py::test_axolotl_takes_the_callback_by_one_entry_of_its_file",
        ),
        Row(
            "verl with FSDP2",
            "works",
            "`monitor.watch` in examples/verl_fsdp.py; against a stand-in",
            "tests/parallel/test_verl.py::test_the_actor_of_verl_is_counted_on_all_workers_and_across_a_resume",
        ),
        Row(
            "prime-rl",
            "works",
            "`monitor.watch` in examples/prime_rl_train.py; against a stand-in",
            "tests/parallel/test_prime_rl.py::test_prime_rl_is_counted_on_all_ranks_and_across_a_resume",
        ),
        Row(
            "PRIME on top of GRPOTrainer",
            "works",
            "the policy is observed",
            "tests/examples/test_prime.py::test_what_a_run_reports_is_what_it_trained",
        ),
        Row(
            "a schedule-free optimizer, `load_best_model_at_end`, callbacks that change weights",
            "works",
            "what is saved is counted, whatever was observed, and named by its step",
            f"{_KEPT}::test_mask_and_counts_are_those_of_what_is_saved",
        ),
    ],
    "Parallel training": [
        Row(
            "DDP, FSDP2, DeepSpeed ZeRO-1, ZeRO-2 and ZeRO-3",
            "works",
            "each weight is measured by one process; no process gathers a parameter",
            f"{_PARALLEL}::test_counts_are_those_of_the_saved_weights",
        ),
        Row(
            "HSDP, tensor parallelism with DTensors, FSDP1 with `use_orig_params=True`",
            "works",
            "the same integers as one process on the same weights",
            f"{_PLACED}::test_spread_weights_have_the_counts_of_one_process",
        ),
        Row(
            "FSDP1 with `use_orig_params=False`",
            "refused",
            "it hides the parameters; use FSDP2",
            f"{_REFUSED}::test_fsdp1_that_hides_the_parameters",
        ),
        Row(
            "ZeRO-3 with parameters offloaded to NVMe",
            "refused",
            "between steps the weights are in no memory; offload them to the CPU",
            f"{_PLACED}::test_zero3_parameters_on_nvme_are_refused_by_name",
        ),
        Row(
            "DTensors that are partial sums",
            "refused",
            "no process holds the weights",
            f"{_PLACED}::test_weights_that_are_partial_sums_are_refused_by_name",
        ),
        Row(
            "pipeline parallelism",
            "refused",
            "each process has the parameters of its stage alone; leave the monitor out",
            f"{_PLACED}::test_pipeline_stages_are_refused_by_name",
        ),
        Row(
            "a part of the processes trains, as actors beside rollout workers",
            "works",
            "in a loop of your own: `UpdateObserver(model, process_group=actors)` on these alone",
            f"{_MEETING}::test_a_part_of_the_world_trains_and_observes",
        ),
        Row(
            "some of the processes observe, and the others do not",
            "refused",
            "named after two minutes; a first warning comes after 20 seconds",
            f"{_MEETING}::test_processes_that_do_not_observe_are_named_in_seconds",
        ),
        Row(
            "processes with weights of their own under one name, as in expert parallelism",
            "refused",
            "they would be taken for replicas; leave the monitor out",
            f"{_PLACED}::test_replicas_that_differ_are_refused_by_name",
        ),
    ],
    "Adapters": [
        Row(
            "LoRA",
            "works",
            "what PEFT's merge would write is compared with the base; nothing is merged",
            f"{_ADAPTED}::test_counts_are_those_of_a_merged_copy",
        ),
        Row(
            "several adapters, `modules_to_save`, rsLoRA, DoRA, experts",
            "works",
            "the same",
            f"{_EFFECTIVE}::test_effective_weights_are_those_of_pefts_own_merge",
        ),
        Row(
            "LoRA on quantised weights of bitsandbytes (4 and 8 bits), HQQ and torchao",
            "works",
            "against the dequantised base",
            f"{_EFFECTIVE}::test_adapters_on_quantised_weights_are_measured_against_the_dequantised_base",
        ),
        Row(
            "other quantised weights with adapters, such as of GPTQ and AWQ",
            "partly",
            "PEFT cannot dequantise them: named in a warning and left out",
            f"{_EFFECTIVE}::test_quantised_weights_are_named_and_left_out",
        ),
        Row(
            "adapters that are no LoRA, such as IA3, OFT and prompt tuning, or on sharded weights",
            "refused",
            "their effective weights are not computed; train with LoRA, in parallel with DDP",
            f"{_EFFECTIVE}::test_what_cannot_be_computed_is_refused_by_name",
        ),
    ],
    "Models": [
        Row(
            "tied embeddings",
            "works",
            "they count once",
            f"{_MODELS}::test_tied_embeddings_count_once",
        ),
        Row(
            "mixture of experts",
            "works",
            "all experts of a layer are one group",
            f"{_MODELS}::test_experts_of_three_dimensions",
        ),
        Row(
            "vision-language model with a frozen tower",
            "works",
            "frozen weights count as unchanged, take no memory and are reported apart",
            f"{_MODELS}::test_a_frozen_vision_tower_counts_as_unchanged",
        ),
        Row(
            "`torch.compile`",
            "works",
            "the losses are the same without the callback",
            f"{_MODELS}::test_torch_compile",
        ),
        Row(
            "gradient checkpointing",
            "works",
            "the losses are the same without the callback",
            f"{_MODELS}::test_gradient_checkpointing",
        ),
        Row(
            "parameters without weights",
            "works",
            "they count zero",
            f"{_MODELS}::test_parameters_without_weights",
        ),
        Row(
            "`requires_grad` switched on during training",
            "works",
            "the base is what the weights are then; counted from that step on",
            f"{_SWITCHED}::test_a_layer_that_starts_to_train_is_counted_from_then_on",
        ),
        Row(
            "`requires_grad` switched off during training",
            "works",
            "what has changed until then stays counted",
            f"{_SWITCHED}::test_a_layer_that_trains_no_more_is_counted_on",
        ),
        Row(
            "parameters added during training",
            "partly",
            "named in a warning and left out; add them before training starts",
            f"{_SWITCHED}::test_a_parameter_that_was_added_is_named_and_not_counted",
        ),
        Row(
            "weights on the meta device",
            "refused",
            "there is nothing to measure; load them first",
            f"{_REFUSED}::test_a_model_without_weights",
        ),
    ],
    "Interruptions": [
        Row(
            "killed, and resumed from a checkpoint",
            "works",
            "what came after the checkpoint is superseded; the end is that of an uninterrupted run",
            f"{_INTERRUPTED}::test_a_killed_training_goes_on_from_its_checkpoint",
        ),
        Row(
            "resumed on another number of processes",
            "works",
            "DDP and FSDP2; changed and touched weights are those of the checkpoints",
            f"{_INTERRUPTED}::test_resumed_with_another_number_of_processes",
        ),
        Row(
            "branched from a checkpoint, into another output directory or under another name",
            "works",
            "a run of its own that knows its parent; [what decides](../../monitor/training/RUNS.md)",
            "tests/training/test_lineage.py::test_two_branches_of_one_checkpoint_are_two_runs",
        ),
        Row(
            "`hyperparameter_search`",
            "works",
            "each trial is a run of its own, with its parameters as labels and its own mask",
            "tests/training/test_trials.py::test_each_trial_is_a_run_of_its_own_with_its_own_mask",
        ),
        Row(
            "resumed from a checkpoint that was written without the callback",
            "works",
            "a run of its own, against the weights that the training started from",
            f"{_CALLBACK}::test_a_checkpoint_written_without_the_callback_starts_a_run",
        ),
        Row(
            "resumed with a head that started at random, such as a reward model made from a language model",
            "refused",
            "that start is written nowhere; save the model with its head and start from there, or give `base`",
            f"{_REFUSED}::test_a_resumed_model_whose_head_started_at_random",
        ),
        Row(
            "resumed with another `criterion`, `visible_dtype`, `include` or `exclude`",
            "refused",
            "the counts would mean something else from then on",
            f"{_CALLBACK}::test_a_run_that_was_measured_otherwise_is_refused",
        ),
        Row(
            "`auto_find_batch_size`",
            "works",
            "each start is a run of its own; a warning where the weights have moved before it starts again",
            f"{_CALLBACK}::test_a_training_that_starts_again_says_so_where_its_weights_have_moved",
        ),
        Row(
            "stopped early",
            "works",
            "the last step is observed, and the run is finished",
            f"{_INTERRUPTED}::test_a_training_that_is_stopped_early_is_finished",
        ),
        Row(
            "`model_init`",
            "works",
            "the base is the model that training starts with",
            f"{_INTERRUPTED}::test_the_base_is_the_model_that_model_init_makes_when_training_starts",
        ),
        Row(
            "an output directory used again",
            "works",
            "a run of its own; what is left of the earlier one is still delivered",
            f"{_INTERRUPTED}::test_an_output_directory_that_is_used_again_starts_a_run_of_its_own",
        ),
    ],
    "Input": [
        Row(
            "a frozen reference model of the trainer",
            "works",
            "`attach` uses it as the base, without a copy",
            f"{_CALLBACK}::test_a_frozen_reference_model_is_the_base_without_a_copy",
        ),
        Row(
            "a reference model that is synchronised (`sync_ref_model`) as `base`",
            "refused",
            "it follows the training; leave `base` out, or give a state dict, which is copied",
            f"{_REFUSED}::test_a_reference_model_that_follows_the_training",
        ),
        Row(
            "a base that cannot be read",
            "refused",
            "give the directory or hub id of the weights that the training started from",
            f"{_REFUSED}::test_a_base_on_a_hub_that_cannot_be_reached",
        ),
        Row(
            "a base other than the one that a resumed run started from",
            "refused",
            "the counts would mean something else from then on",
            f"{_CALLBACK}::test_a_base_that_changed_between_attempts_is_refused",
        ),
        Row(
            "a reference mask that lacks parameters",
            "refused",
            "it says nothing of them; choose what it covers with `include`",
            f"{_REFUSED}::test_a_mask_of_a_part_of_the_parameters",
        ),
        Row(
            "a structural reference mask, such as `lowest:0.1`",
            "works",
            "made of the base: of the same bits however the weights are spread, and after a resume",
            f"{_PARALLEL}::test_counts_are_those_of_the_saved_weights",
        ),
        Row(
            "`include` or `exclude` that matches nothing",
            "refused",
            "the error shows what names look like",
            f"{_REFUSED}::test_a_pattern_that_matches_no_parameter",
        ),
        Row(
            "two callbacks on one trainer",
            "refused",
            "each step would be reported twice",
            f"{_REFUSED}::test_a_callback_that_was_added_twice",
        ),
        Row(
            "an output directory that cannot be written",
            "refused",
            "give another `directory`",
            f"{_CALLBACK}::test_a_directory_that_cannot_be_written_is_an_error_before_training",
        ),
    ],
}


def as_markdown() -> str:
    """Return the table, with links as they are from tests/matrix."""
    lines = ["| what | | |", "|---|---|---|"]
    for section, rows in SECTIONS.items():
        lines += [f"| **{section}** | | |", *(row.markdown() for row in rows)]
    return "\n".join(lines)
