"""What a run says of itself: a progress bar, a JSONL file, TensorBoard, and the watch over losses and images."""

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from rog_jax.data.loader import check_unreadable
from rog_jax.training.storage import GO_ON, whole_file, writing
from rog_jax.training.tensorboard import Board, Mirror

logger = logging.getLogger(__name__)

LAG = 2
"""Steps that the host runs ahead of the metrics it reads, so that devices never wait for it."""
WATCHED = ("dropped_objects", "unreadable_images", "skipped_steps")
"""What a run counts from its first step on, as its log has it."""


class NonFiniteLoss(FloatingPointError):
    """A loss or the gradient was NaN or infinite."""


class MetricsWatch:
    """Hands out the metrics of each step a little later, when they are there, and stops when too many were bad.

    The metrics are those of all hosts, so that all of them stop at the same step, also for unreadable images.

    Args:
        image_ids: of the data set, for messages.
        max_unreadable: images that may be unreadable.
        max_skipped: steps whose losses or gradient may be not finite; the state is left as it was by them.
        counts: that the run had before it was stopped.

    Attributes:
        dropped: objects left out so far because an image had too many.
        unreadable: images so far that could not be read.
        skipped: steps so far that were not finite.
    """

    def __init__(
        self, image_ids: np.ndarray, max_unreadable: int, max_skipped: int, counts: Mapping[str, int] | None = None
    ):
        self.dropped, self.unreadable, self.skipped = ((counts or {}).get(name, 0) for name in WATCHED)
        self._image_ids, self._max_unreadable, self._max_skipped = image_ids, max_unreadable, max_skipped
        self._waiting: deque[tuple[int, np.ndarray, dict[str, jax.Array]]] = deque()

    @property
    def counts(self) -> dict[str, int]:
        """The attributes, for the same watch of the resumed run."""
        return dict(zip(WATCHED, (self.dropped, self.unreadable, self.skipped), strict=True))

    def push(self, step: int, image_index: np.ndarray, metrics: dict[str, jax.Array]) -> list[tuple[int, dict]]:
        """Takes the metrics of `step` and returns those of earlier steps that have arrived, as (step, floats)."""
        self._waiting.append((step, image_index, metrics))
        return [self._pop()] if len(self._waiting) > LAG else []

    def flush(self) -> list[tuple[int, dict]]:
        """All that is still waiting."""
        return [self._pop() for _ in range(len(self._waiting))]

    def _pop(self) -> tuple[int, dict[str, float]]:
        step, image_index, metrics = self._waiting.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not values["finite"]:
            self.skipped += 1
            if self.skipped > self._max_skipped:
                raise NonFiniteLoss(self._message(step, image_index, values))
            logger.warning("skipped: %s", self._message(step, image_index, values))
        self.dropped += int(values.pop("dropped"))
        self.unreadable += int(values.pop("unreadable"))
        check_unreadable(self.unreadable, self._max_unreadable)
        return step, values

    def _message(self, step: int, image_index: np.ndarray, values: dict[str, float]) -> str:
        bad = [name for name, value in values.items() if not np.isfinite(value) and name != "loss"]
        ids = self._image_ids[image_index[image_index >= 0]].tolist()
        others = "; the other hosts name theirs, and any may be the one" if jax.process_count() > 1 else ""
        return (
            f"step {step}: {', '.join(bad) or 'the sum of losses'} not finite; image ids of this host: {ids}{others}. "
            f"Such steps so far: {self.skipped}, allowed by train.max_skipped_steps: {self._max_skipped}. Nothing was "
            "learnt from them, and the last checkpoint is sound. A lower optim.lr, a longer optim.warmup_steps or "
            "optim.clip_norm usually help; if one image recurs, look at its annotations."
        )


class RunLog:
    """Writes means of the metrics every `every` steps and shows a progress bar; quiet on all hosts but the first.

    Args:
        workdir: `train_log.jsonl` and TensorBoard files go there.
        start: steps already done; later lines of an earlier try are removed, so that none is there twice.
        total: steps of the run.
        every: steps between lines.
        batch_size: images a step over all devices.
        active: False on hosts that keep silent.
        mirror: gets what TensorBoard does.
        pending: of the log of the run that this one goes on from.

    Raises:
        StorageError: a file cannot be written; so do `add` and `close`.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        total: int,
        every: int,
        batch_size: int,
        active: bool,
        mirror: Mirror | None = None,
        pending: Mapping[str, Any] | None = None,
    ):
        self._every, self._total, self._batch_size, self._active = every, total, batch_size, active
        self._sums: dict[str, float] = dict(pending["sums"]) if pending else {}
        self._count: int = pending["count"] if pending else 0
        self._batches, self._timed = 0, 0
        self._clock = 0.0
        self._waited = 0.0
        self.board: Board | None = None  # of hosts that do not keep silent
        if not active:
            return
        self._path = workdir / "train_log.jsonl"
        truncate_log(self._path, start)
        with writing(self._path, GO_ON):
            self._file = self._path.open("a", buffering=1)
        self.board = Board(workdir / "tensorboard", start + 1, mirror)
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1, mininterval=1.0)

    @property
    def pending(self) -> dict[str, Any]:
        """Sums and number of the steps since the last line, which a resumed run counts to its first."""
        return {"sums": dict(self._sums), "count": self._count}

    def got_batch(self, waited: float) -> None:
        """Counts a batch, and the seconds in which the step waited for it.

        The clock starts with the second batch: the first step is mostly compilation.
        """
        self._batches += 1
        if self._batches == 1:
            return
        if self._batches == 2:
            self._clock, waited = time.perf_counter(), 0.0
        self._timed += 1
        self._waited += waited

    def add(self, step: int, values: dict[str, float], extra: dict[str, Any]) -> None:
        """Takes the metrics of the update that made `step`, and writes the means of the finite ones when it is time."""
        if values["finite"]:
            if self._count and self._sums.keys() != values.keys():  # of a run that was resumed with other losses
                self._sums, self._count = {}, 0
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
        if self._active:
            self._bar.update()
        if step % self._every == 0 or step == self._total:
            self._write(step, values["lr"], extra)

    def _write(self, step: int, rate: float, extra: dict[str, Any]) -> None:
        now = time.perf_counter()
        elapsed = max(now - self._clock, 1e-9)
        line = {name: value / self._count for name, value in self._sums.items() if name != "finite"}
        line["lr"] = rate
        line["images_per_second"] = self._timed * self._batch_size / elapsed
        line["data_wait"] = min(self._waited / elapsed, 1.0)
        line |= extra
        self._sums, self._count, self._timed, self._clock, self._waited = {}, 0, 0, now, 0.0
        if not self._active:
            return
        with writing(self._path, GO_ON):
            self._file.write(json.dumps({"step": step, **line}) + "\n")
        self.board.write(step, {f"train/{name}": value for name, value in line.items()})
        parts = " ".join(f"{name} {line[name]:.3f}" for name in LOSS_NAMES if name in line)
        loss = line.get("loss", float("nan"))
        self._bar.set_postfix_str(
            f"loss {loss:.3f} ({parts}) {line['images_per_second']:.1f} img/s wait {line['data_wait']:.0%}"
        )

    def close(self) -> None:
        """Closes the files."""
        if not self._active:
            return
        self._bar.close()
        with contextlib.closing(self.board), writing(self._path, GO_ON):
            self._file.close()


LOSS_NAMES = ("rpn_cls", "rpn_box", "cls", "gap", "box", "mask")


def truncate_log(path: Path, start: int) -> None:
    """Removes from a JSONL file the lines of steps after `start`, and a half-written last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if record["step"] > start:
            break
        kept.append(line + "\n")
    with whole_file(path, GO_ON) as partial:
        partial.write_text("".join(kept))
