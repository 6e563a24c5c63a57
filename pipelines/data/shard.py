"""Makes a dataset of webdataset shards from photos. A repeated job continues, appends, or ends."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipelines.cluster import Mapper, connected_when_needed, probing
from pipelines.config.schema import Config, ShardConfig
from pipelines.data import preview, verify
from pipelines.data.dataset import dataset_exists, intact_shards
from pipelines.data.inspect import inspect
from pipelines.data.layout import ShardPlan, assign, identity_settings, plan_shards
from pipelines.data.manifest import FILE_NAME, Manifest, Shard
from pipelines.data.ownership import NOTE, REPORT, SHARD, check_output, is_ours
from pipelines.data.quality.benchmark import BenchmarkSets
from pipelines.data.quality.judge import judge, warn_of_shown
from pipelines.data.report import tell, tell_read, write_report
from pipelines.data.sources import Entry, Inventory, KnownFiles, describe_source, find_entries
from pipelines.data.writer import Written, write_shard
from pipelines.errors import UserError, listing, told
from pipelines.progress import progress
from pipelines.storage.files import local_files
from pipelines.storage.paths import absolute_location
from pipelines.storage.probe import Witness, token
from pipelines.storage.store import LocalStore, Store, open_store

_SHARED = "or to a folder that all nodes share"
_OUTPUT_REMEDY = f"set data to s3://bucket/prefix, {_SHARED}"
_SOURCE_REMEDY = f"copy the photos to s3://bucket/prefix, {_SHARED}, and set source to that"


def plan(config: Config) -> str:
    """Returns in words what `run` would do.

    Raises:
        UserError: the source, the output or the name of the preview is unusable, or the output
            holds files of somebody else.
    """
    store = open_store(output_location(config), policy=config.stream.policy)
    target = store.location
    preview.check(config)
    if config.verify:
        return f"check every byte of the dataset in {target}"
    if _only_preview(config):
        return f"draw training pairs of the dataset in {target}"
    _check_place(target)
    check_output(store)
    settings, policy = config.shard, config.stream.policy
    sources = describe_source(source(config), config.mirror, policy)
    if settings.val_source is not None:
        held_out = describe_source(settings.val_source, config.mirror, policy)
        sources += f"; held out for validation: {held_out}"
    return (
        f"{sources}; tiles of {settings.tile} px "
        f"({settings.val_tile} px for validation), lossless, in shards of about "
        f"{settings.shard_mib:g} MiB, into {target}"
    )


def run(config: Config) -> str:
    """Makes the dataset, adds new photos to it, or verifies it; returns its location.

    With `preview`, without `source`, and with a dataset in place, it only draws the preview.

    Raises:
        UserError: the source or the output is unusable, too many photos are broken, or the
            verified dataset is damaged.
    """
    location = output_location(config)
    preview.check(config)
    if config.verify:
        verify.run(location, config.stream)
    elif not _only_preview(config):
        entries = photo_files(config)
        with connected_when_needed() as mapper:
            make_dataset(config, entries, mapper)
    if config.preview is not None:
        preview.run(config, location)
    return location


def source(config: Config) -> Any:
    """Returns the configured source, or else the sample."""
    return "sample" if config.source is None else config.source


def photo_files(config: Config) -> list[Entry]:
    """Returns the photo files of `shard.val_source`, whose split is `val`, and then of `source`.

    A photo that is in both is found first where it is validation, and skipped as a duplicate later.

    Raises:
        UserError: as `find_entries`.
    """
    where = config.mirror, config.stream.policy, config.shard.max_unpacked_gib
    named = config.shard.val_source
    held_out = find_entries(named, *where) if named else []
    return [
        *(replace(entry, split="val", held_out=True) for entry in held_out),
        *find_entries(source(config), *where),
    ]


def _only_preview(config: Config) -> bool:
    drawn = config.preview is not None and config.source is None
    return drawn and dataset_exists(output_location(config), config.stream)


def output_location(config: Config) -> str:
    """Returns the location of the dataset: `output`, or else `data`."""
    return absolute_location(config.output or config.data)


def _check_place(location: str) -> None:
    if location.endswith(".json"):
        raise UserError(f"{location} names a manifest: shards need a folder or s3:// prefix.")


def make_dataset(config: Config, entries: list[Entry], mapper: Mapper) -> Manifest:
    """Makes the dataset of a source's files in the output, and returns its manifest.

    It keeps shards that are there, writes new photos into new shards, and leaves out shards with
    photos that the source no longer holds.

    Raises:
        UserError: the output is unusable, holds files of somebody else, or another job writes
            into it; too many photos are broken; or a split has no tile.
    """
    settings = config.shard
    _check_place(output_location(config))
    store = open_store(output_location(config), policy=config.stream.policy)
    with _alone(store), _seen_by_nodes(store, entries) as witnesses:
        mapper = probing(mapper, witnesses)
        history, before = check_output(store), _existing(store, settings)
        known, benchmark = KnownFiles.load(store), _benchmark(config)
        inventory = inspect(entries, settings, mapper, known, benchmark)
        tell_read(inventory)
        _check_same(store, inventory, before)
        _check_held_out(store, inventory, before, settings)
        _check_failures(store, inventory, settings)
        if settings.quality:
            placed = _splits(before)
            judge(inventory, placed, settings, lambda entry: not known.lists(entry))
            warn_of_shown(inventory.photos, placed)
        known.update(store, inventory.files)
        layout = assign(inventory, settings, before, intact_shards(store, before), history)
        plans = plan_shards(layout, settings)
        written = _write(plans, store, inventory, settings, mapper)
        shards = sorted((*layout.kept, *written), key=lambda s: (s.split != "train", s.path))
        _check_splits(shards, settings)
        manifest = Manifest(identity_settings(settings), tuple(shards))
        write_report(store, inventory, manifest)
        if before is None or manifest.digest != before.digest:
            _check_alone(store, before, manifest)
            manifest.save(store)
        _clean(store, history | {shard.path for shard in shards})
    tell(store, before, manifest, written)
    return manifest


def _alone(store: Store) -> Any:
    """Returns a context in which no other job writes into a folder.

    Object storage has no such lock. Two jobs on one source write equal bytes there.
    """
    if not isinstance(store, LocalStore):
        return nullcontext()
    root = Path(store.location)
    stack = ExitStack()
    with local_files(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(FileLock(root / ".lock", timeout=0))
        except Timeout:
            raise UserError(
                f"another job is writing shards into {root}: wait for it, or choose another output."
            ) from None
    return stack


@contextmanager
def _seen_by_nodes(store: Store, entries: list[Entry]) -> Iterator[list[Witness]]:
    """Gives the witnesses of the folders that every node must see: the output, and the sources."""
    witnesses = _of_sources(entries)
    if not isinstance(store, LocalStore):
        yield witnesses
        return
    with token(store.directory, "shard", _OUTPUT_REMEDY) as own:
        yield [*witnesses, own]


def _of_sources(entries: list[Entry]) -> list[Witness]:
    """Returns a witness of each local source: its first file that can be read, or its archive."""
    found: dict[str, Witness] = {}
    for entry in entries:
        if "://" in entry.container or entry.container in found:
            continue
        path = Path(entry.container)
        folder, name = (path, entry.name) if entry.kind == "file" else (path.parent, path.name)
        with suppress(UserError):  # an unreadable photo is counted later
            found[entry.container] = Witness.of(folder, name, _SOURCE_REMEDY)
    return list(found.values())


def _existing(store: Store, settings: ShardConfig) -> Manifest | None:
    if store.size(FILE_NAME) is None:
        return None
    manifest = Manifest.load(store)
    wanted = identity_settings(settings)
    differing = [k for k in wanted if manifest.settings.get(k) != wanted[k]]
    if differing:
        raise UserError(
            f"{store.location} holds a dataset with other settings "
            f"({listing(f'shard.{k}' for k in differing)}): choose another output, or delete it."
        )
    return manifest


def _benchmark(config: Config) -> BenchmarkSets:
    return BenchmarkSets.of(config) if config.shard.quality else BenchmarkSets()


def _splits(manifest: Manifest | None) -> dict[str, str]:
    """Returns the split of each photo in the dataset, by its sha256."""
    shards = manifest.shards if manifest else ()
    return {sha: shard.split for shard in shards for sha in shard.photos}


def _check_same(store: Store, inventory: Inventory, before: Manifest | None) -> None:
    """Refuses a source that lacks most photos of the dataset: it is likely given by mistake."""
    known = _splits(before)
    left = sum(photo.sha256 in known for photo in inventory.photos)
    if 2 * left < len(known):
        raise UserError(
            f"{store.location} holds a dataset of {len(known)} photos, of which {left} are in the "
            "source: choose another output, or give the old source too: source=[old,new]."
        )


def _check_held_out(
    store: Store, inventory: Inventory, before: Manifest | None, settings: ShardConfig
) -> None:
    """Refuses to train on what `shard.val_source` holds out, and to validate on anything else."""
    if settings.val_source is None:
        return
    held_out = [photo for photo in inventory.photos if photo.entry.held_out]
    if not held_out:
        raise UserError(
            f"no photo of shard.val_source={told(settings.val_source)} can be read: mend them, or "
            "give others."
        )
    splits = _splits(before)
    if trained := [p for p in held_out if splits.get(p.sha256) == "train"]:
        raise UserError(
            f"{store.location} has {len(trained)} photos of shard.val_source among its training "
            f"photos ({told(trained[0].entry.label)}, …): choose another output, or delete it."
        )


def _write(
    plans: list[ShardPlan],
    store: Store,
    inventory: Inventory,
    settings: ShardConfig,
    mapper: Mapper,
) -> list[Shard]:
    """Writes the planned shards in parallel; returns each that has a tile."""
    shards: list[Shard] = []
    if not plans:
        return shards
    total = sum(len(plan.photos) for plan in plans)
    calls = [(plan, store, settings) for plan in plans]
    with progress("shard", total=total, unit="photo") as bar:
        results = mapper(write_shard, calls)
        for plan, result in zip(plans, results, strict=True):
            assert isinstance(result, Written)
            inventory.skipped += result.skipped
            if result.shard is not None:
                shards.append(Shard.from_json(result.shard))
            bar.update(len(plan.photos))
            _check_failures(store, inventory, settings)
    return shards


def _check_failures(store: Store, inventory: Inventory, settings: ShardConfig) -> None:
    failures = [s for s in inventory.skipped if s.failure]
    if len(failures) <= settings.max_failures * inventory.num_files:
        return
    write_report(store, inventory, None)
    first = "; ".join(f"{s.name}: {s.reason}" for s in failures[:3])
    raise UserError(
        f"{len(failures)} of {inventory.num_files} photo files are broken, more than "
        f"shard.max_failures={settings.max_failures:g} allows ({first}): see "
        f"{store.location}/{REPORT}, mend or remove them, or allow more."
    )


def _check_splits(shards: list[Shard], settings: ShardConfig) -> None:
    for split in ("train", "val"):
        if not any(shard.split == split for shard in shards):
            raise UserError(
                f"no tile is left for the split '{split}': every photo of it is smaller than its "
                f"tile ({settings.tile} px, validation {settings.val_tile} px), near-flat or "
                "broken: set a smaller shard.tile or shard.val_tile, or give more photos."
            )


def _check_alone(store: Store, before: Manifest | None, manifest: Manifest) -> None:
    """Refuses to go on if another job has visibly written into the store meanwhile."""
    now = Manifest.load(store) if store.size(FILE_NAME) is not None else None
    same = (now and now.digest) == (before and before.digest)
    if not same or len(intact_shards(store, manifest)) < len(manifest.shards):
        raise UserError(
            f"another job has written into {store.location} meanwhile: wait until it has ended, "
            "and run this one again."
        )


def _clean(store: Store, listed: set[str]) -> None:
    """Removes notes, and shards of interrupted jobs, which no manifest lists."""
    for name in store.names():
        unlisted = SHARD.fullmatch(name) and name not in listed and is_ours(store, name)
        if unlisted or NOTE.fullmatch(name):
            store.delete(name)
