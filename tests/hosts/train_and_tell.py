"""train.py that also prints, at each checkpoint, digests of the arrays that all devices have, of each of this host."""

import hashlib

import numpy as np
from absl import app

from rog_jax.commands import train as command
from rog_jax.training import runtime
from rog_jax.training.checkpoint import flattened
from rog_jax.training.loop import train
from rog_jax.training.watchers import Checkpointed

WORD = "DIGEST"


def tell(run: Checkpointed) -> None:
    """A line of each array and device: the word, step, path, device, digest."""
    for path, array in flattened(run.state).items():
        if array.is_fully_replicated:
            for shard in array.addressable_shards:
                digest = hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
                print(WORD, run.step, path, shard.device.id, digest, flush=True)


def main(_: list[str]) -> None:
    runtime.start(command.HOSTS)
    with runtime.ends_all_hosts():
        train(command.CONFIG.value, command.WORKDIR.value, watchers=[tell])


if __name__ == "__main__":
    app.run(main)
