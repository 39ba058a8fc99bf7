"""The kernel for GPUs in machine code, which needs no GPU: compiled in a process of its own, and taken apart."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from monitor.observe.kernels import kinds

_TYPES = {
    **dict.fromkeys(("tiles", "table", "integers", "largest"), "*i64"),
    **{"limits": "*i32", "limit": "i32", "squares": "*fp64", "table_columns": "i32", "count_columns": "i32"},
}
_NOT_THERE = ("Cannot find ptxas", "No module named 'triton.backends", "is not defined for option 'gpu-name'")


@dataclass(frozen=True)
class Target:
    """A GPU to compile for; for AMD's, `arch` is a name, for NVIDIA's ten times the compute capability."""

    backend: str
    arch: int | str
    lanes: int

    def __str__(self) -> str:
        return f"cc {self.arch / 10}" if isinstance(self.arch, int) else self.arch


NVIDIA = tuple(Target("cuda", arch, 32) for arch in (75, 80, 89, 90, 100))
MI300 = Target("hip", "gfx942", 64)


@dataclass(frozen=True)
class Variant:
    """What the kernel is compiled for; weights as numbered in kinds.py. The default is that of the users."""

    stored: int = kinds.BFLOAT16
    kept: int = kinds.BFLOAT16
    visible: int = kinds.BFLOAT16
    steps: bool = True
    atol: bool = False
    limits: int = 0
    references: int = 0
    wide: bool = True


@dataclass(frozen=True)
class MachineCode:
    """What a compiler made of the kernel.

    Attributes:
        missing: why there is nothing; empty where there is.
        registers: of a thread, 32 bits each.
        local_bytes: memory of a thread of its own, for what found no register, or is indexed.
        accesses: bytes of each instruction that loads from global memory, or stores there.
        loop: the instructions of the loop over blocks, without their operands; empty where it was not asked for.
        weights: of a thread in one turn of that loop.
        bytes_per_weight: what a turn loads and stores for each weight.
        takes_subnormals_for_zero: such instructions of PTX.
    """

    missing: str = ""
    registers: int = 0
    local_bytes: int = 0
    accesses: tuple[int, ...] = ()
    loop: tuple[str, ...] = ()
    weights: float = 1.0
    bytes_per_weight: float = 0.0
    takes_subnormals_for_zero: tuple[str, ...] = ()

    def per_weight(self, counts: Callable[[str], bool] = lambda _: True) -> float:
        """Return how many of the loop's instructions each weight takes."""
        return sum(map(counts, self.loop)) / self.weights


def compiled(
    requests: Sequence[tuple[Target, Variant]], *, with_loop: Callable[[Variant], bool] = lambda _: True
) -> list[MachineCode]:
    """Compile each. NVIDIA's disassembler is as slow as the compiler: ask for few loops.

    What was compiled is kept in the environment that runs the tests: Triton knows it by the kernel, by the compilers
    and by all of its settings, and compiles what differs in any of these.
    """
    # Not in this process, which may have the kernel interpreted.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([(asdict(target), asdict(variant), with_loop(variant)) for target, variant in requests]),
        env=environment | {"TRITON_CACHE_DIR": str(Path(sys.prefix) / "triton")},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"the kernel did not compile:\n{result.stderr}")
    each: list[dict[str, Any]] = json.loads(result.stdout)
    # JSON knows no tuples.
    return [MachineCode(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in each]


def _compile(target: Target, variant: Variant, with_loop: bool) -> MachineCode:
    """Compile in this process, where nothing may be interpreted."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from monitor.observe.kernels import gpu
    from monitor.observe.kernels.triton_tiles import measure

    constants = {name.upper(): value for name, value in asdict(variant).items()}
    constants |= {"WORDS": gpu.WORDS, "BLOCKS": gpu.BLOCKS}
    names = measure.arg_names
    source = ASTSource(
        fn=measure,
        signature={name: _TYPES.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    options = {"enable_fp_fusion": True, "num_warps": gpu.WARPS[variant.wide]}
    try:
        asm = triton.compile(source, GPUTarget(target.backend, target.arch, target.lanes), options).asm
    except Exception as problem:
        reason = next((reason for reason in _NOT_THERE if reason in str(problem)), None)
        if reason is None and not _lacks(target):
            raise
        return MachineCode(missing=f"this build of Triton compiles nothing for {target}: {reason or problem}")
    threads = options["num_warps"] * target.lanes
    found = _of_amd(asm["amdgcn"]) if target.backend == "hip" else _of_nvidia(asm["cubin"], asm["ptx"], with_loop)
    return replace(
        found,
        weights=gpu.WORDS * 32 / threads,
        bytes_per_weight=_bytes_of_blocks(asm["ttir"]) / (gpu.WORDS * 32),
        takes_subnormals_for_zero=tuple(re.findall(r"\S*\.ftz\S*", asm.get("ptx", ""))),
    )


def _lacks(target: Target) -> bool:
    from triton.backends import backends

    return {"cuda": "nvidia", "hip": "amd"}[target.backend] not in backends


def _bytes_of_blocks(ttir: str) -> float:
    """Add up what a block of weights loads and stores. What a program reads once, as addresses, does not count."""
    blocks = re.findall(r"tt\.(?:load|store) .*: tensor<((?:\d+x)+)!tt\.ptr<i(8|16|32)>", ttir)
    return sum(math.prod(map(int, sizes.rstrip("x").split("x"))) * int(bits) / 8 for sizes, bits in blocks)


def _of_nvidia(cubin: bytes, ptx: str, with_loop: bool) -> MachineCode:
    text = _cuobjdump(cubin, "-res-usage", *["-sass"] * with_loop)
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    # As wide in PTX as in machine code.
    accesses = re.findall(r"(?:ld|st)\.global\S*?(?:\.v(\d))?\.[bfsu](\d+)\s", ptx)
    return MachineCode(
        registers=usage["REG"],
        local_bytes=usage["STACK"] + usage["LOCAL"],
        accesses=tuple(int(count or 1) * int(bits) // 8 for count, bits in accesses),
        loop=_loop_of_sass(text) if with_loop else (),
    )


def _cuobjdump(cubin: bytes, *options: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    # It calls its neighbour nvdisasm.
    environment = os.environ | {"PATH": f"{tool.parent}:{os.environ.get('PATH', '')}"}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), *options, file.name]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def _loop_of_sass(text: str) -> tuple[str, ...]:
    found = re.findall(r"/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\d+ +)?([A-Z]\S*)([^;]*);", text)
    places = {int(address, 16): i for i, (address, _, _) in enumerate(found)}
    jumps = {i: re.search(r"0x([0-9a-f]+)", operands) for i, (_, name, operands) in enumerate(found) if "BRA" in name}
    loop = _longest_loop({i: places[int(to[1], 16)] for i, to in jumps.items() if to})
    return tuple(name for _, name, _ in found[loop])


def _of_amd(text: str) -> MachineCode:
    usage = {name: int(value) for name, value in re.findall(r"\.(vgpr_count|private_segment_fixed_size): +(\d+)", text)}
    labels: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(found)
        elif instruction := re.match(r"\t([a-z]\w*)\s*(\S*)", line):
            found.append((instruction[1], instruction[2]))
    where = _longest_loop({i: labels[to] for i, (_, to) in enumerate(found) if to in labels})
    loop = tuple(name for name, _ in found[where])
    sizes = {"byte": 1, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
    accesses = (re.match(r"(?:global|buffer|flat)_(?:load|store)_[us]?(byte|short|dwordx\d|dword)", it) for it in loop)
    return MachineCode(
        registers=usage["vgpr_count"],
        local_bytes=usage["private_segment_fixed_size"],
        accesses=tuple(sizes[access[1]] for access in accesses if access),
        loop=loop,
    )


def _longest_loop(jumps: dict[int, int]) -> slice:
    """Return the instructions from where one jumps back to, to where one jumps from."""
    start, end = max(((to, at) for at, to in jumps.items()), key=lambda jump: jump[1] - jump[0])
    return slice(start, end + 1)


if __name__ == "__main__":
    json.dump(
        [
            asdict(_compile(Target(**target), Variant(**variant), with_loop))
            for target, variant, with_loop in json.load(sys.stdin)
        ],
        sys.stdout,
    )
