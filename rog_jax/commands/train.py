"""Trains a detector: `python train.py --config configs/lvis_r50.py --workdir runs/r50 [--config.optim.lr=0.01]`.

The folder takes checkpoints, `train_log.jsonl` and TensorBoard files; the same command goes on from the newest
checkpoint. Every setting is in configs/common.py. `--profile DIR` traces a few steps, after which
`python -m rog_jax.tools.profile_shares DIR` tells what they spent on each part.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from rog_jax.training import runtime

CONFIG = config_flags.DEFINE_config_file("config", help_string="Recipe, such as configs/lvis_r50.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints and logs.", required=True)
PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace of a few steps, for XProf and Perfetto.")
PROFILE_FIRST = flags.DEFINE_integer("profile_first", 10, "Steps of this start before the trace; the first compiles.")
PROFILE_STEPS = flags.DEFINE_integer("profile_steps", 3, "Steps to trace.")
WANDB = flags.DEFINE_string("wandb", None, "Weights & Biases project that shows the run, too (pip install wandb).")
HOSTS = runtime.define_host_flags()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {argv[1:]}")
    runtime.start(HOSTS, traced=PROFILE.value is not None)
    with runtime.ends_all_hosts():
        run()


def run() -> None:
    """Trains as the flags say."""
    from rog_jax.inference.progress import ProgressPictures
    from rog_jax.training.loop import train
    from rog_jax.training.profile import ProfileRequest
    from rog_jax.training.wandb_mirror import wandb_opener

    profile = PROFILE.value and ProfileRequest(PROFILE.value, PROFILE_FIRST.value, PROFILE_STEPS.value)
    config, workdir = CONFIG.value, Path(WORKDIR.value)
    watchers = [ProgressPictures(config)] if config.train.pictures else []
    open_mirror = wandb_opener(WANDB.value, workdir, config) if WANDB.value else None
    train(config, workdir, profile, watchers, open_mirror)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
