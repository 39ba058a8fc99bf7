"""LLaMA-Factory with the callback, in place of `llamafactory-cli train config.yaml`. Written for LLaMA-Factory 0.9.5.

SPARSITY_MONITOR_TARGET=localhost:50051 torchrun --nproc_per_node 2 examples/llama_factory_train.py config.yaml
"""

from llamafactory.train.tuner import run_exp

from monitor import SparsityCallback

if __name__ == "__main__":
    run_exp(callbacks=[SparsityCallback()])
