"""Compiles training and inference for a TPU pod that is not there: does it fit, what does it compute and exchange?

    pip install -e '.[tpu-compile]'
    python -m rog_jax.tools.compile_check --config configs/lvis_r50.py --topology v5e:4x4 --images_per_chip 1,2,4,8
    python -m rog_jax.tools.compile_check --config configs/lvis_r50.py --config.model.depth=101 --topology v5p:2x2x1
    python -m rog_jax.tools.compile_check --config configs/lvis_r50.py --lower     # for CPU, CUDA and TPU; no compiler

Topologies are those of libtpu: v5e:4x4, v6e:2x2, v4:2x2x1, v5p:2x2x1. Each program is the true one, of `train.py` or
`eval.py`, for the first padded shape of the config. A compilation takes minutes. One json object a program is printed,
and appended to `--out` if given; a table follows. docs/pods.md explains the columns.

Settings of the config are overridden as in train.py; classes that the config leaves to the data are taken to be 1,203.
"""

import importlib.metadata
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, config_flags

from rog_jax.data.batch import Batch
from rog_jax.tools.benchmark import made_up_batch, made_up_statistics
from rog_jax.tools.estimated_time import estimate, seconds_of
from rog_jax.tools.program_cost import collectives, count_products
from rog_jax.tools.topology import Chip, TopologyError, chip_of, topology_devices
from rog_jax.training import runtime
from rog_jax.training.loop import git_commit
from rog_jax.training.optimizer import create_optimizer, learning_rate
from rog_jax.training.state import AXIS, ModelDefinition, TrainState, create_state, data_mesh, state_shardings
from rog_jax.training.step import make_predict_step, make_train_step

PROGRAMS = ("train", "inference")
PLATFORMS = ("cpu", "cuda", "tpu")
TOO_LARGE = re.compile(r"Used ([\d.]+)([MG]) of [\d.]+G hbm")
"""The compiler's words for a program that does not fit into the memory of a chip."""

COLUMNS = {
    "program": "program",
    "topology": "topology",
    "images_per_chip": "images a chip",
    "fits": "fits",
    "gigabytes": "GB needed",
    "limit_gigabytes": "of GB",
    "teraflops": "TFLOP",
    "accessed_gigabytes": "GB accessed",
    "exchanged_megabytes": "MB exchanged",
    "estimated_ms": "ms by the compiler",
    "images_per_second_at_best": "images/s at best",
    "compile_seconds": "compiled in s",
}


def check_program(
    config: ConfigDict, topology: str, images: int, program: str = "train", texts: Path | None = None
) -> dict[str, Any]:
    """Compiles one program for a topology.

    Args:
        config: a recipe; its batch size is not used.
        topology: such as "v5e:4x4".
        images: of each chip.
        program: "train" or "inference".
        texts: folder in which the compiled program's text is kept, for `estimated_time`.

    Returns:
        Figures of one chip, one for each of `COLUMNS`, None where the program does not fit. GB are 10^9 bytes.
        `gigabytes` is the compiler's: arguments, results that are not written over them, temporaries and code.
        `teraflops` are of products, as a TPU's matrix unit does them (`program_cost.count_products`).
        `accessed_gigabytes` is the compiler's, a loop's body counted once, but for the loop of micro-batches
        (`accessed_at_most`). `exchanges` has the bytes by collective, one in a loop once; `gradient_bytes` are those of
        the sum over chips of a training step's gradient. `estimated_ms` is the compiler's (`estimated_time`).
        `images_per_second_at_best`, of all chips, by `seconds_at_best`. `commit`, `jax` and `libtpu` say what was
        compiled by what.

    Raises:
        TopologyError: libtpu is missing, or knows no such topology or chip.
    """
    devices, chip = topology_devices(topology), chip_of(topology)
    step, arguments = abstract_program(config, data_mesh(devices), images, program)
    figures: dict[str, Any] = dict.fromkeys([*COLUMNS, "exchanges"])
    figures |= {"program": program, "topology": topology, "images_per_chip": images, "commit": git_commit()}
    figures |= {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
    figures["limit_gigabytes"] = round(chip.memory / 1e9, 2)
    figures["gradient_bytes"] = gradient_bytes(arguments[0]) if program == "train" else None
    traced = jax.jit(step).trace(*arguments) if program == "inference" else step.trace(*arguments)
    products = count_products(traced.jaxpr)
    figures["teraflops"] = round(products.passes / 1e12, 3)
    started = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = TOO_LARGE.search(str(error))
        if needed is None:
            raise
        return figures | {"fits": False, "gigabytes": _gigabytes(*needed.groups())}
    memory = compiled.memory_analysis()
    accessed = accessed_at_most(compiled.cost_analysis()["bytes accessed"], program, config.train.accumulate)
    text = compiled.as_text()
    if texts is not None:
        texts.mkdir(parents=True, exist_ok=True)
        (texts / f"{program}_r{config.model.depth}_{topology.replace(':', '_')}_{images}.hlo").write_text(
            text, encoding="utf-8"
        )
    exchanges = collectives(text)
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    sent = sum(exchange.sent(len(devices)) for exchange in exchanges)
    seconds = seconds_at_best(chip, products.passes, accessed, sent)
    kinds = sorted({exchange.kind for exchange in exchanges})
    return figures | {
        "fits": True,
        "gigabytes": round(needed / 1e9, 2),
        "accessed_gigabytes": round(accessed / 1e9, 2),
        "exchanged_megabytes": round(sum(exchange.bytes for exchange in exchanges) / 1e6, 2),
        "exchanges": {kind: sum(e.bytes for e in exchanges if e.kind == kind) for kind in kinds},
        "estimated_ms": round(1e3 * seconds_of(estimate(text, chip.hertz).operations), 2),
        "images_per_second_at_best": round(images * len(devices) / seconds, 1),
        "compile_seconds": round(time.perf_counter() - started),
    }


def _gigabytes(number: str, unit: str) -> float:
    """10^9 bytes of the compiler's, which are powers of two."""
    return round(float(number) * (2**30 if unit == "G" else 2**20) / 1e9, 2)


def accessed_at_most(counted: float | int, program: str, accumulate: int) -> float | int:
    """Bytes that a program moves, of those that the compiler counts with the body of a loop once.

    With micro-batches an upper bound: what stands outside their loop, the optimizer above all, is taken as often as
    they are.
    """
    return counted * accumulate if program == "train" else counted


def gradient_bytes(state: TrainState) -> int:
    """Of the gradient that a training step sums over all chips: of each trained array, in its own type."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.trainable))


def seconds_at_best(chip: Chip, flops: float | int, accessed: float | int, sent: float | int) -> float | int:
    """About the shortest that a program can take.

    The longest of three: the matrix unit at its peak, the memory at its own, the links at theirs, as if they overlapped
    without a gap. Vector work, small kernels, sorting and NMS cost nothing here. Too high may be what goes in: of a
    condition the dearest branch counts, here the one for batches with more positives than slots; and the compiler's
    bytes are in part those of memory on the chip.
    """
    return max(flops / chip.flops, accessed / chip.bandwidth, sent / chip.links)


def abstract_program(
    config: ConfigDict, mesh: Mesh, images: int, program: str
) -> tuple[Callable, tuple[TrainState, Batch]]:
    """A program of `train.py` or `eval.py`, and the shapes of its arguments on the devices of the mesh.

    Args:
        config: a recipe.
        mesh: whose devices need not be there.
        images: of each device.
        program: "train" or "inference".
    """
    config = config.copy_and_resolve_references()
    config.model.num_classes = config.model.num_classes or 1203
    config.train.batch_size = mesh.size * images
    definition = ModelDefinition(config, made_up_statistics(config.model.num_classes))
    config = definition.config
    schedule = learning_rate(config.optim, config.train.batch_size, [])
    optimizer = create_optimizer(config.optim, schedule)
    if program == "train":
        step = make_train_step(definition, optimizer, schedule, mesh)
    else:
        step = make_predict_step(definition, mesh)
    batch = made_up_batch(config, images)
    arguments = _abstract_state(definition, optimizer, mesh), _abstract_batch(batch, mesh)
    return step, arguments


def _abstract_state(definition: ModelDefinition, optimizer: Any, mesh: Mesh) -> TrainState:
    of_one = create_state(definition, optimizer, data_mesh(jax.devices()[:1]))

    def shape(array: jax.Array, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        local = (mesh.size, *array.shape[1:]) if sharding.spec == PartitionSpec(AXIS) else array.shape
        return jax.ShapeDtypeStruct(local, array.dtype, sharding=sharding)

    return jax.tree.map(shape, of_one, state_shardings(of_one, definition, mesh))


def _abstract_batch(batch: Batch, mesh: Mesh) -> Batch:
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((mesh.size * len(x), *x.shape[1:]), x.dtype, sharding=sharding), batch
    )


def lower_program(config: ConfigDict, images: int, program: str) -> dict[str, Any]:
    """Lowers a program for one CPU, CUDA GPU or TPU in one StableHLO module, which shows that each can take it.

    Returns:
        The platforms, and the size of the module in MB.
    """
    step, arguments = abstract_program(config, data_mesh(jax.devices()[:1]), images, program)
    exported = export.export(jax.jit(step), platforms=PLATFORMS)(*arguments)
    megabytes = round(len(exported.mlir_module_serialized) / 1e6, 2)
    return {"program": program, "platforms": list(exported.platforms), "megabytes": megabytes}


def format_table(cells: list[dict[str, Any]]) -> str:
    """Markdown; a dash where a program did not fit."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|---" * len(COLUMNS) + "|"]
    shown = {None: "–", True: "yes", False: "no"}
    for cell in cells:
        values = (cell[name] for name in COLUMNS)
        texts = (shown[value] if value is None or isinstance(value, bool) else str(value) for value in values)
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def _flags() -> dict[str, flags.FlagHolder]:
    return {
        "config": config_flags.DEFINE_config_file("config", help_string="Recipe, such as configs/lvis_r50.py."),
        "topology": flags.DEFINE_string("topology", None, "TPU to compile for, such as v5e:4x4."),
        "lower": flags.DEFINE_bool("lower", False, "Only lower, for one CPU, GPU or TPU."),
        "images": flags.DEFINE_list("images_per_chip", ["2"], "Images of each chip; a program for each number."),
        "programs": flags.DEFINE_list("programs", list(PROGRAMS), "Of train and inference."),
        "out": flags.DEFINE_string("out", None, "File that a json line of each program is appended to."),
        "text": flags.DEFINE_string("text", None, "Folder for each program's text, for rog_jax.tools.estimated_time."),
    }


def main(argv: list[str], given: dict[str, Any]) -> None:
    """Prints a json object for each program, and a table of them."""
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {argv[1:]}")
    unknown = sorted(set(given["programs"].value) - set(PROGRAMS))
    if unknown:
        raise app.UsageError(f"--programs={','.join(unknown)}: choose of {', '.join(PROGRAMS)}")
    if not all(number.isdigit() and int(number) for number in given["images"].value):
        raise app.UsageError(f"--images_per_chip={','.join(given['images'].value)}: whole numbers from 1 on")
    if given["lower"].value == (given["topology"].value is not None):
        raise app.UsageError("give either --topology, such as v5e:4x4, or --lower")
    runtime.start()
    config, topology, cells = given["config"].value, given["topology"].value, []
    texts = Path(given["text"].value) if given["text"].value else None
    for program in given["programs"].value:
        for images in map(int, given["images"].value):
            if given["lower"].value:
                cell = lower_program(config, images, program)
            else:
                cell = check_program(config, topology, images, program, texts)
            cells.append(cell)
            print(json.dumps(cell), flush=True)
            if given["out"].value:
                with Path(given["out"].value).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(cell) + "\n")
    if topology:
        print(format_table(cells))


if __name__ == "__main__":
    _given = _flags()
    flags.mark_flag_as_required("config")
    try:
        app.run(lambda argv: main(argv, _given))
    except TopologyError as error:
        raise SystemExit(f"compile_check: {error}") from error
