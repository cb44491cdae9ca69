"""NVIDIA GPUs and machines of them."""

import re
from dataclasses import dataclass, field

import jax
from jax.experimental import topologies

from cpnet_jax.errors import UserError

# JAX takes this share of a GPU's memory by default: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
SHARE_OF_MEMORY = 0.75
# GPUs of one machine. Plans do not cover networks between machines.
COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
      name: as in a topology's name.
      kind: JAX's name, `jax.Device.device_kind`.
      hbm: memory, in bytes.
      bandwidth: of the memory, bytes/s.
      peaks: FLOP/s of matrix products by type, without sparsity.
      cores: streaming multiprocessors.
      lanes: float32 units of a core.
      clock: Hz, the highest ("boost").
      interconnect: bytes/s that it sends to the other GPUs of a machine.
      capability: compute capability.
      l2, shared, shared_optin, threads: sizes that the compiler needs: of the second cache, of a core's shared memory,
        of what a block may take of it, and the threads of a core.
    """

    name: str
    kind: str
    hbm: int
    bandwidth: float
    peaks: dict[str, float]
    cores: int
    lanes: int
    clock: float
    interconnect: float
    capability: tuple[int, int]
    l2: int
    shared: int
    shared_optin: int
    threads: int = 2048
    pod: int = field(default=COUNTS[-1], init=False)
    data_center: None = field(default=None, init=False)

    @property
    def peak(self) -> float:
        """bfloat16 FLOP/s."""
        return self.peaks["bf16"]

    @property
    def room(self) -> int:
        """Bytes that a step may take."""
        return int(SHARE_OF_MEMORY * self.hbm)

    @property
    def operations(self) -> float:
        """Elementwise float32 operations per second."""
        return self.cores * self.lanes * self.clock

    @property
    def target(self) -> str:
        """XLA's description of the device, a text proto."""
        major, minor = self.capability
        info = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 48 * 1024,
            "shared_memory_per_core": self.shared,
            "shared_memory_per_block_optin": self.shared_optin,
            "threads_per_core_limit": self.threads,
            "core_count": self.cores,
            "fpus_per_core": self.lanes,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
            "memory_bandwidth": int(self.bandwidth),
            "l2_cache_size": self.l2,
            "clock_rate_ghz": self.clock / 1e9,
            "device_memory_size": self.hbm,
        }
        fields = " ".join(f"{name}: {value}" for name, value in info.items())
        return (
            f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
            'platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } runtime_version { major: 13 } '
            f'device_description_str: "{self.kind}"'
        )


def _peaks(bf16: float, tf32: float, f32: float, f64: float) -> dict[str, float]:
    return {"bf16": bf16, "f16": bf16, "tf32": tf32, "f32": f32, "f64": f64}


KIB, GIB = 2**10, 2**30
# NVIDIA's data sheets (SXM modules; peaks without sparsity; interconnect is half of the sum of both directions) and the
# table of compute capabilities in the CUDA C++ Programming Guide.
_H100 = {
    "peaks": _peaks(989.4e12, 494.7e12, 66.9e12, 66.9e12),
    "cores": 132,
    "lanes": 128,
    "clock": 1.98e9,
    "interconnect": 450e9,
    "capability": (9, 0),
    "l2": 50 * 2**20,
    "shared": 228 * KIB,
    "shared_optin": 227 * KIB,
}
CARDS = {
    card.name: card
    for card in (
        Card("h100", "NVIDIA H100 80GB HBM3", 80 * GIB, 3.35e12, **_H100),
        Card("h200", "NVIDIA H200", 141 * 10**9, 4.8e12, **_H100),
        Card(
            "a100", "NVIDIA A100-SXM4-80GB", 80 * GIB, 2.039e12, _peaks(312e12, 156e12, 19.5e12, 19.5e12), 108, 64,
            1.41e9, 300e9, (8, 0), 40 * 2**20, 164 * KIB, 163 * KIB,
        ),
        Card(
            "l4", "NVIDIA L4", 24 * 10**9, 300e9, _peaks(121e12, 60.5e12, 30.3e12, 0.47e12), 58, 128, 2.04e9, 32e9,
            (8, 9), 48 * 2**20, 100 * KIB, 99 * KIB, threads=1536,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind in one machine."""

    chip: Card
    chips: int
    unit: str = field(default="GPU", init=False)
    platform: str = field(default="cuda", init=False)

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{self.chips}"

    def devices(self) -> list[jax.Device]:
        """Stand-ins for the GPUs, to compile for; needs JAX's CUDA plugin, and the environment that `compiler` sets."""
        shape = f"1x1x{self.chips}"  # slices, machines of a slice, GPUs of a machine
        return topologies.get_topology_desc(platform="cuda", topology=shape, target_config=self.chip.target).devices


def parse(name: str) -> Machine:
    """Parses the name of a machine, such as h100:8.

    Raises:
      UserError: if the GPU is unknown, or their number is not one of COUNTS.
    """
    match = re.fullmatch(r"(\w+):(\d+)", name)
    counts = ", ".join(map(str, COUNTS))
    if not match or match[1] not in CARDS or int(match[2]) not in COUNTS:
        raise UserError(
            f"--topology is {name!r}: it must be a GPU ({', '.join(CARDS)}) and the number in one machine ({counts}), "
            "for example h100:8"
        )
    return Machine(CARDS[match[1]], int(match[2]))
