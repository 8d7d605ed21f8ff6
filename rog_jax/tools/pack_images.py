"""Packs the image files of a data set into a few large ones, for file systems that are slow with many small ones.

example:
  python -m rog_jax.tools.pack_images --config configs/lvis_r50.py --split train --out data/lvis_train_images
  python train.py --config configs/lvis_r50.py --config.data.train_packed=data/lvis_train_images ...

The files are copied as they are, so that a run sees the same pixels. A validation set is packed by itself
(--split val, config.data.val_packed).
"""

import argparse
import logging
import sys
from pathlib import Path

from rog_jax.data import load_split
from rog_jax.data.image_pack import pack_images
from rog_jax.tools.check_data import config_of, data_arguments


def main(arguments: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shard-mb", type=int, default=1024, help="about the size of each file, MB [1024]")
    given = parser.parse_args(arguments)
    if not (given.config or given.json or given.source):
        parser.error("name a data set: --config, --json with --images, or --source")
    try:
        data = config_of(given).data
        data[f"{given.split}_packed"] = ""
        figures = pack_images(load_split(data, given.split), given.out, given.shard_mb << 20)
    except (OSError, ValueError) as error:
        sys.exit(f"pack_images: {error}")
    print("{images} images, {missing} of them missing, {bytes} bytes in {shards} files".format(**figures))
    print(f"--config.data.{given.split}_packed={given.out}")


if __name__ == "__main__":
    main()
