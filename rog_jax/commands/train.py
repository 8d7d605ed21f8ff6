"""Trains a detector: `python train.py --config configs/lvis_r50.py --workdir runs/r50 [--config.optim.lr=0.01]`.

The folder takes checkpoints, `train_log.jsonl` and TensorBoard files; the same command goes on from the newest
checkpoint. Every setting is in configs/common.py.
"""

from absl import app, flags
from ml_collections import config_flags

from rog_jax.training import runtime

CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe, such as configs/lvis_r50.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints and logs.", required=True)
HOSTS = runtime.define_host_flags()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {argv[1:]}")
    runtime.start(HOSTS)
    from rog_jax.training.loop import train

    train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
