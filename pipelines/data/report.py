"""Says what a job found in its sources and what it made, in words and in `report.json`."""

import json
from dataclasses import asdict

from pipelines.data.manifest import HISTORY, Manifest, Shard
from pipelines.data.ownership import REPORT
from pipelines.data.sources import Inventory
from pipelines.errors import listing
from pipelines.storage.store import Store


def write_report(store: Store, inventory: Inventory, manifest: Manifest | None) -> None:
    """Writes `report.json`, and prints how many files were skipped, and why.

    Args:
        manifest: the dataset; None if the job stops.

    Raises:
        UserError: the store fails.
    """
    report = {
        "num_files": inventory.num_files,
        "num_skipped": len(inventory.skipped),
        "skipped": [asdict(skipped) for skipped in inventory.skipped],
        "reasons": inventory.reasons(),
        "manifest": manifest.digest if manifest else None,
    }
    data = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()
    if store.size(REPORT) != len(data) or store.read(REPORT) != data:
        store.write(REPORT, data)
    if inventory.skipped:
        reasons = listing(f"{count} {reason}" for reason, count in inventory.reasons().items())
        print(
            f"Skipped {len(inventory.skipped)} of {inventory.num_files} files: {reasons}; "
            f"{store.location}/{REPORT} names them.",
            flush=True,
        )


def tell_read(inventory: Inventory) -> None:
    """Prints how many files were read, and how many were known without that."""
    read = inventory.num_files - inventory.num_known
    print(f"Read {read} photo files; {inventory.num_known} more are known.", flush=True)


def tell(store: Store, before: Manifest | None, now: Manifest, written: list[Shard]) -> None:
    """Prints what the dataset has become.

    Args:
        before: the manifest as it was, if there was one.
        written: the shards that this job wrote.
    """
    if before is not None and now.digest == before.digest:
        mended = f" ({len(written)} shards were missing and are mended)" if written else ""
        print(f"Nothing to do: {describe(now)} are in {store.location} already{mended}.")
    elif before is None:
        print(f"Wrote {describe(now)} to {store.location}.")
    else:
        shared = len({s.sha256 for s in before.shards} & {s.sha256 for s in now.shards})
        print(
            f"Wrote {len(written)} shards to {store.location} beside {shared} that stay: now "
            f"{describe(now)}. The earlier manifest is {HISTORY}/{before.digest}.json."
        )


def describe(manifest: Manifest) -> str:
    """Returns the numbers of tiles and shards and their size, in words."""
    return (
        f"{manifest.num_samples('train')} training and {manifest.num_samples('val')} validation "
        f"tiles in {len(manifest.shards)} shards ({manifest.num_bytes / 2**20:.1f} MiB)"
    )
