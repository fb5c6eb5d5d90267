"""What a call of a resident pipeline gives: the output's fields, read as diffusers' own are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zhcache.errors import UsageError
from zhcache.resident.values import Unread

_VERDICTS = ("nsfw_content_detected", "nsfw_detected")
"""What diffusers' outputs call the safety checker's verdicts, one for each image."""


class Result:
    """Output fields by attribute, name or index.

    As in diffusers an index and ``to_tuple`` leave out fields that are None.

    Args:
        class_name: Of the output in diffusers, ``StableDiffusionPipelineOutput`` for instance.
        fields: Its fields in their order.
    """

    def __init__(self, class_name: str, fields: dict[str, Any]) -> None:
        self._class_name = class_name
        self._fields = fields

    @property
    def class_name(self) -> str:
        """The output's class in diffusers."""
        return self._class_name

    @property
    def names(self) -> list[str]:
        """The names of all fields, those that are None too."""
        return list(self._fields)

    def raw(self, name: str) -> Any:
        """Returns a field as it came, ``Unread`` where this environment cannot hold it."""
        return self._fields[name]

    def keys(self) -> list[str]:
        """Returns the names of the fields that are not None."""
        return [name for name, value in self._fields.items() if value is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the fields that are not None.

        Raises:
            UsageError: One of them needs a library that is not installed.
        """
        return tuple(self[name] for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        """Returns a field by name, or fields as ``to_tuple`` counts them.

        Raises:
            UsageError: The field needs a library that is not installed.
        """
        if not isinstance(key, str):
            return self.to_tuple()[key]
        value = self._fields[key]
        if isinstance(value, Unread):
            raise UsageError(
                "{field} is a {kind}, which needs {library} in this environment",
                hint="install it, or ask for output_type='pil'",
                field=key,
                kind=value.kind,
                library=value.needs,
            )
        return value

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._fields:
            return self[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._fields})

    def __repr__(self) -> str:
        return f"<{self._class_name} {', '.join(self.keys())}>"


def first_image(result: Any) -> Any:
    """Returns the first image of a call's output.

    Raises:
        UsageError: It has none.
    """
    images = getattr(result, "images", None)
    if not images:
        raise UsageError(
            "this pipeline makes no images", hint="call it from Python: zhcache.load_pipeline"
        )
    return images[0]


def is_black(result: Any) -> bool:
    """Whether the pipeline's safety checker made the first image of a call's output black."""
    verdicts = (getattr(result, name, None) for name in _VERDICTS)
    return any(isinstance(found, list) and found[:1] == [True] for found in verdicts)
