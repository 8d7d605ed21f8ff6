"""TPUs that need not be there: their devices, to compile for, and the figures of their makers."""

import importlib.util
import os
from typing import NamedTuple

from jax.experimental import topologies

WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Keeps libtpu from asking a cloud for the machine that it runs on, and from letting one program in at a time; the
topology compiled for is given apart, and no device is opened."""


class Chip(NamedTuple):
    """What a chip can do at best, by Google's documentation of Cloud TPU and its paper on the v4 (ISCA 2023).

    Attributes:
        flops: of bfloat16 products, a second.
        memory: bytes of HBM.
        bandwidth: of that memory, bytes a second.
        links: bytes a second that leave the chip over all of its links to others.
        macs_per_cycle: multiplications with their additions, of all its matrix units.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    macs_per_cycle: int

    @property
    def hertz(self) -> float:
        """Cycles in a second, at which the matrix units reach `flops`."""
        return self.flops / (2 * self.macs_per_cycle)


CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, 8 * 128**2),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, 4 * 128**2),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, 8 * 128**2),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 400e9, 4 * 256**2),
}
"""Links: in one direction; the documents give the sum of both. v4 and v5p have two cores with four matrix units each,
which programs use as one. Cycles come out at 1.05, 1.5, 1.75 and 1.75 GHz."""


ONE_DEVICE_A_CHIP = {"v4": {"chip_config_name": "megacore"}}
"""What libtpu has to be told of a family, so that a device is a chip as in programs on it; others need nothing."""


class TopologyError(ValueError):
    """The compiler for a topology is missing, or it does not know the topology."""


def chip_of(topology: str) -> Chip:
    """The figures of the chips of a topology.

    Raises:
        TopologyError: there are none.
    """
    chip = CHIPS.get(topology.partition(":")[0])
    if chip is None:
        raise TopologyError(f"no figures of the chips of {topology!r}; there are {', '.join(CHIPS)}")
    return chip


def topology_devices(topology: str) -> list:
    """Descriptions of the devices of a TPU topology, for which programs can be compiled but not run.

    Args:
        topology: such as "v5e:4x4" or "v4:2x2x1".

    Raises:
        TopologyError: where libtpu is not installed or does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f"compiling for {topology} needs libtpu: pip install -e '.[tpu-compile]'")
    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    try:
        more = ONE_DEVICE_A_CHIP.get(topology.partition(":")[0], {})
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices)
    except Exception as error:  # of many types, by version
        raise TopologyError(f"libtpu knows no topology {topology!r}, such as v5e:2x2: {error}") from error
