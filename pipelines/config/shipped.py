"""The models whose weights come with the project."""

from pathlib import Path

from pipelines.storage.paths import resolve

#: Their bundles, by name.
SHIPPED = Path(__file__).parents[1] / "shipped"


def shipped_models() -> list[str]:
    """Their names."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/bundle.json"))


def is_reference(value: str) -> bool:
    """Whether this, which is no stage, can mean a model (see `registry.models.load_model`)."""
    return ":" in value or value in shipped_models() or "/" in value or resolve(value).is_dir()
