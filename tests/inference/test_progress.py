"""What TensorBoard and Weights & Biases show of a run while it goes on."""

import sys
import types

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from rog_jax import Predictor
from rog_jax.data import ClassStatistics, load_split
from rog_jax.inference.progress import ProgressPictures
from rog_jax.training import wandb_mirror
from rog_jax.training.checkpoint import Checkpoints
from rog_jax.training.loop import with_num_classes
from rog_jax.training.optimizer import create_optimizer
from rog_jax.training.state import ModelDefinition, create_state, data_mesh
from rog_jax.training.tensorboard import Board
from rog_jax.training.watchers import Checkpointed, TailScalars


def events(folder):
    """What the files in a folder hold: (step, tag, value or encoded picture)."""
    found = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                is_picture = value.HasField("image")
                found.append(
                    (event.step, value.tag, value.image.encoded_image_string if is_picture else value.simple_value)
                )
    return found


@pytest.fixture
def checkpointed(run, tmp_path):
    """The run's checkpoint as training sees it, with 3, 6, 9, ... positives of the categories so far."""
    workdir, config, _ = run
    annotations = load_split(config.data, "train")
    definition = ModelDefinition(with_num_classes(config, annotations), ClassStatistics.of(annotations))
    mesh = data_mesh()
    fresh = create_state(definition, create_optimizer(definition.config.optim, lambda step: 0.0), mesh)
    state = Checkpoints(workdir, read_only=True).restore(fresh)
    counts = jax.device_put(np.arange(3, 21, 3, dtype=np.int32), state.class_counts.sharding)
    board = Board(tmp_path / "board")
    return annotations, Checkpointed(7, state._replace(class_counts=counts), definition, mesh, board)


def test_counts_and_omega_of_both_ends(checkpointed, tmp_path):
    annotations, run = checkpointed
    TailScalars(annotations)(run)
    shown = {tag: value for step, tag, value in events(tmp_path / "board") if step == 7}
    rarest = int(np.argmin(np.where(annotations.image_counts > 0, annotations.image_counts, 1e9)))
    name = annotations.category_names[rarest]
    assert shown[f"tail/positives/rare/{name}"] == 3 * (rarest + 1)
    counts = np.arange(3, 21, 3)
    gamma = run.definition.config.loss.gap.gamma
    omega = 6 * counts ** -float(gamma) / np.sum(counts ** -float(gamma))
    assert shown[f"tail/omega/rare/{name}"] == pytest.approx(omega[rarest], rel=1e-5)
    assert len(shown) == 20


def test_pictures_are_of_the_same_images_with_the_predictor_s_detections(run, checkpointed, tmp_path, monkeypatch):
    from rog_jax.inference import progress

    config = run[1].copy_and_resolve_references()
    config.train.pictures = 4
    drawn = []
    inner = progress.draw_comparison
    monkeypatch.setattr(progress, "draw_comparison", lambda *given: drawn.append(given) or inner(*given))
    pictures = ProgressPictures(config)
    pictures(checkpointed[1])
    pictures(checkpointed[1]._replace(step=8))
    tags = [(step, tag) for step, tag, value in events(tmp_path / "board") if value[:4] == b"\x89PNG"]
    assert len(tags) == 8
    assert [tag for step, tag in tags if step == 7] == [tag for step, tag in tags if step == 8]
    predictor = Predictor.from_checkpoint(run[0])
    for pixels, truth, found, names, _ in drawn[:4]:
        expected = predictor(pixels).best(max(len(truth.labels), 3))
        assert len(found.boxes) >= 3
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert tuple(names[label] for label in found.labels) == expected.names
        np.testing.assert_array_equal(found.masks, expected.masks)
        assert expected.masks.any()


def test_more_pictures_than_a_batch_are_cut_with_a_warning_and_a_wrong_batch_is_refused(run, caplog, monkeypatch):
    config = run[1].copy_and_resolve_references()
    config.train.pictures = 20
    ProgressPictures(config)
    assert "config.train.pictures=20: only 8 images are shown" in caplog.text
    config.test.batch_size = 1
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"config\.test\.batch_size=1 .* must be a multiple"):
        ProgressPictures(config)


def test_hosts_without_a_board_are_silent(run, checkpointed, tmp_path):
    config = run[1].copy_and_resolve_references()
    config.train.pictures = 2
    silent = checkpointed[1]._replace(board=None)
    TailScalars(checkpointed[0])(silent)
    ProgressPictures(config)(silent)
    assert events(tmp_path / "board") == []


class FakeRun:
    def __init__(self, **given):
        self.given, self.id, self.logged, self.finished = given, given["id"] or "abc", [], 0

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def test_weights_and_biases_gets_the_same_and_goes_on_with_its_run(run, tmp_path, monkeypatch):
    runs = []

    def init(**given):
        runs.append(FakeRun(**given))
        return runs[-1]

    fake = types.SimpleNamespace(init=init, Image=lambda pixels: ("picture", pixels.shape))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    open_mirror = wandb_mirror.wandb_opener("tails", tmp_path, run[1])
    assert not runs  # as long as the run may still be refused
    mirror = open_mirror()
    board = Board(tmp_path / "board", 1, mirror)
    board.write(3, {"train/loss": 1.5})
    board.picture(4, "pictures/1", np.zeros((5, 6, 3), np.uint8))
    board.close()
    assert runs[0].logged == [(3, {"train/loss": 1.5}), (4, {"pictures/1": ("picture", (5, 6, 3))})]
    mirror.close()
    assert runs[0].finished == 1
    assert runs[0].given["config"]["train"]["batch_size"] == 8
    wandb_mirror.wandb_opener("tails", tmp_path, run[1])()
    assert (runs[0].given["id"], runs[1].given["id"]) == (None, "abc")


def test_weights_and_biases_out_of_reach_ends_a_run_at_its_start_alone(run, tmp_path, monkeypatch, caplog):
    def init(**given):
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(RuntimeError, match=r"no route.*wandb login, or leave --wandb out"):
        wandb_mirror.wandb_opener("tails", tmp_path, run[1])()
    (tmp_path / wandb_mirror.RUN_FILE).write_text("abc\n")
    assert wandb_mirror.wandb_opener("tails", tmp_path, run[1])() is None
    assert "goes on without it: no route" in caplog.text


def test_an_error_of_weights_and_biases_does_not_end_training(caplog):
    broken = FakeRun(id=None)

    def log(values, step):
        broken.logged.append(step)
        raise ConnectionError("no route")

    broken.log = log
    mirror = wandb_mirror.WandbMirror(types.SimpleNamespace(Image=lambda pixels: pixels), broken)
    for step in (1, 2):
        mirror.scalars(step, {"train/loss": 1.5})
        mirror.picture(step, "pictures/1", np.zeros((5, 6, 3), np.uint8))
    mirror.close()
    assert broken.logged == [1]
    assert caplog.text.count("nothing more of this run: ConnectionError: no route") == 1


def test_weights_and_biases_is_asked_for_by_name(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        wandb_mirror.wandb_opener("tails", tmp_path, run[1])
