"""Reads every byte of a dataset and names its damaged shards and samples: `verify=true`."""

import hashlib
import tarfile
import zlib
from contextlib import nullcontext
from io import BytesIO

from webdataset.tariterators import group_by_keys, tar_file_expander

from pipelines.cluster import Mapper, connect, ray_map
from pipelines.config.schema import StreamConfig
from pipelines.data.dataset import intact_shards, split_location
from pipelines.data.manifest import Manifest, Shard
from pipelines.errors import UserError
from pipelines.progress import progress
from pipelines.storage.paths import absolute_location
from pipelines.storage.store import Store, open_store


def run(location: str, stream: StreamConfig, mapper: Mapper | None = None) -> None:
    """Checks every shard's size and sha256, and every sample of a damaged shard.

    It prints every damage.

    Args:
        mapper: runs the tasks; Ray does by default.

    Raises:
        UserError: there is no dataset, or it is damaged.
    """
    root, name = split_location(absolute_location(location))
    store = open_store(root, policy=stream.policy)
    manifest = Manifest.load(store, name)
    present = intact_shards(store, manifest)
    problems = [
        f"{shard.path}: missing or of the wrong size"
        for shard in manifest.shards
        if shard.path not in present
    ]
    whole = [shard for shard in manifest.shards if shard.path in present]
    cluster = connect() if mapper is None else nullcontext()
    with cluster, progress("verify", total=len(whole), unit="shard") as bar:
        for found in (mapper or ray_map)(check_shard, [(store, shard) for shard in whole]):
            problems += found
            bar.update()
    for problem in problems:
        print(problem, flush=True)
    if problems:
        damaged = len({problem.partition(":")[0] for problem in problems})
        raise UserError(
            f"{damaged} of {len(manifest.shards)} shards in {root} are damaged: delete the shards "
            "named above, and run their jobs/shard.py command again. It makes missing shards."
        )
    samples = sum(len(shard) for shard in manifest.shards)
    print(
        f"All is well: {samples} samples in {len(manifest.shards)} shards of {root} are what the "
        f"manifest {manifest.digest} says."
    )


def check_shard(store: Store, shard: Shard) -> list[str]:
    """Returns a line for each damage in one shard; runs as one Ray task.

    webdataset's own reader must find the samples of an intact shard as the manifest lists them:
    readers of other people know no manifest.
    """
    data = store.read(shard.path)
    if hashlib.sha256(data).hexdigest() == shard.sha256:
        return _misread(shard, data)
    columns = zip(shard.keys.tolist(), shard.offsets.tolist(), shard.sizes.tolist(),
                  shard.crc32.tolist(), strict=True)  # fmt: skip
    damaged = [
        f"{shard.path}: sample {key.decode()} (bytes {offset} to {offset + size}) is damaged"
        for key, offset, size, crc32 in columns
        if zlib.crc32(data[offset : offset + size]) != crc32
    ]
    return damaged or [f"{shard.path}: damaged outside of the samples"]


def _misread(shard: Shard, data: bytes) -> list[str]:
    """Returns a line if webdataset reads other samples from a shard than the manifest lists."""
    members = tar_file_expander([{"url": shard.path, "stream": BytesIO(data)}])
    try:
        found = [sample["__key__"] for sample in group_by_keys(members)]
    except (tarfile.TarError, ValueError) as error:
        return [f"{shard.path}: webdataset cannot read it ({error.args[0]})"]
    listed = [key.decode() for key in shard.keys.tolist()]
    return [] if found == listed else [f"{shard.path}: holds other samples than the manifest lists"]
