"""train.py that also keeps, at each checkpoint, digests of the arrays that all devices have, of each of this host's.

A line of `WORKDIR/digests.HOST` is a step, a path, a device and a digest.
"""

import hashlib
from pathlib import Path

import jax
import numpy as np
from absl import app

from rog_jax.commands import train as command
from rog_jax.training import runtime
from rog_jax.training.checkpoint import flattened
from rog_jax.training.loop import train
from rog_jax.training.watchers import Checkpointed


def tell(run: Checkpointed) -> None:
    with (Path(command.WORKDIR.value) / f"digests.{jax.process_index()}").open("a") as file:
        for path, array in flattened(run.state).items():
            if array.is_fully_replicated:
                for shard in array.addressable_shards:
                    digest = hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
                    print(run.step, path, shard.device.id, digest, file=file)


def main(_: list[str]) -> None:
    runtime.start(command.HOSTS)
    with runtime.ends_all_hosts():
        train(command.CONFIG.value, command.WORKDIR.value, watchers=[tell])


if __name__ == "__main__":
    app.run(main)
