"""What is taken of a listing, and why the rest is left out. Pure.

First the user's globs, then on request only what ``from_pretrained`` reads, then the rule on
pickles, so that a file nobody wants is never a reason to refuse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec

from zhcache.errors import NotFound, UsageError
from zhcache.protocol.names import RepoPath
from zhcached.sources import pickles, pipeline_files
from zhcached.sources.base import RemoteFile

NOT_READ = "not read by from_pretrained"


class Selection(msgspec.Struct, frozen=True):
    """What of a listing is taken.

    Attributes:
        taken: The files to fetch, in the order of the listing.
        left_out: Each file that the snapshot will not hold, with the reason.
        redundant_bytes: How much of ``taken`` no ``from_pretrained`` reads; what
            ``--only-pipeline`` would save.
        converted: Of ``taken``, the pickles and their indexes that are only to be converted.
    """

    taken: tuple[RemoteFile, ...]
    left_out: dict[str, str]
    redundant_bytes: int
    converted: frozenset[RepoPath] = frozenset()

    @property
    def is_complete(self) -> bool:
        """Whether everything that matters is taken: only pickles with a safe twin are missing."""
        harmless = (pickles.LEFT_OUT_BESIDE, pickles.LEFT_OUT_TRAINING, pickles.CONVERTED)
        return all(reason in harmless for reason in self.left_out.values())


def select(
    files: Sequence[RemoteFile],
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    only_pipeline: bool = False,
    variants: Collection[str | None] = (None,),
    components: Collection[str] | None = None,
    allow_pickle: bool = False,
    converted: Collection[str] = (),
) -> Selection:
    """Returns what of ``files`` is to be fetched.

    Args:
        files: A whole listing.
        include: Globs over the path, of which one must match; ``unet/`` means the folder. ``*``
            matches slashes too. None at all means everything.
        exclude: Globs over the path, of which none may match; stronger than ``include``.
        only_pipeline: Take only what diffusers and transformers read.
        variants: The published dtype variants that ``from_pretrained(variant=...)`` is to find,
            None for the plain weights; of a component that lacks one the plain weights are taken
            in its place. For ``only_pipeline``.
        components: The folders ``model_index.json`` names, if it was read already
            (``pipeline_files.components_of``); makes ``only_pipeline`` exact.
        allow_pickle: Weights that exist only as pickle are taken, to be converted.
        converted: Pickles that were converted before and need not be taken.

    Raises:
        UnsafeWeights: Wanted weights exist only as pickle.
        NotFound: The globs leave nothing.
        UsageError: A glob is empty.
    """
    listing = frozenset(file.path for file in files)
    left_out = _globbed(listing, _patterns(include), _patterns(exclude))
    pipeline = pipeline_files.read_for(
        listing, variants if only_pipeline else (None,), components=components
    )
    if only_pipeline:
        for path in listing - pipeline:
            left_out.setdefault(path, NOT_READ)
    _require_rest(listing, left_out)
    wanted = [file.path for file in files if file.path not in left_out]
    judged = pickles.judge(wanted, listing, allowed=allow_pickle, here=converted)
    left_out.update(judged.left_out)
    to_convert = frozenset(judged.converted)
    taken = tuple(f for f in files if f.path not in left_out or f.path in to_convert)
    if not taken and pickles.CONVERTED not in left_out.values():
        raise pickles.refusal(wanted)
    redundant = sum(file.size for file in taken if file.path not in pipeline)
    in_order: dict[str, str] = {path: left_out[path] for path in sorted(left_out)}
    return Selection(taken, in_order, redundant, to_convert)


def select_served(files: Sequence[RemoteFile], *, pickle: bool) -> Selection:
    """Returns what of a whole listing other machines may be given.

    Args:
        files: The listing.
        pickle: Pickles are given as well.
    """
    if pickle:
        return Selection(tuple(files), {}, 0)
    listing = frozenset(file.path for file in files)
    unsafe = {path for path in listing if pickles.is_pickle(path, listing)}
    # What would be converted if it were here is what has no safe twin.
    judged = pickles.judge(listing, listing, here=unsafe).left_out
    left_out: dict[str, str] = {
        path: pickles.ONLY_PICKLE if judged[path] == pickles.CONVERTED else judged[path]
        for path in sorted(judged)
    }
    return Selection(tuple(f for f in files if f.path not in left_out), left_out, 0)


def _patterns(globs: Iterable[str]) -> tuple[str, ...]:
    patterns = tuple(glob + "*" if glob.endswith("/") else glob for glob in globs)
    if "" in patterns:
        raise UsageError("an empty glob matches nothing", hint="leave it out, or write '*'")
    return patterns


def _globbed(
    listing: Iterable[RepoPath], include: tuple[str, ...], exclude: tuple[str, ...]
) -> dict[RepoPath, str]:
    left_out: dict[RepoPath, str] = {}
    for path in listing:
        if include and not any(fnmatchcase(path, glob) for glob in include):
            left_out[path] = "not matched by --include"
        elif matched := next((glob for glob in exclude if fnmatchcase(path, glob)), None):
            left_out[path] = f"matched by --exclude {matched}"
    return left_out


def _require_rest(listing: frozenset[RepoPath], left_out: dict[RepoPath, str]) -> None:
    if len(left_out) == len(listing):
        raise NotFound(
            "of {count} files none is left by --include, --exclude and --only-pipeline",
            hint="`zhcache prefetch --dry-run REPO` lists them",
            count=len(listing),
        )
