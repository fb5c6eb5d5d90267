"""A stand-in for a pipeline that a worker of the daemon's holds. Needs no torch here.

It is called as the pipeline is, and gives its images. What else a pipeline in this process could
do (its components, their weights, moving them) it refuses with an error that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from zhcache import arguments as kinds
from zhcache.chinese.reader import Reader
from zhcache.chinese.report import ChineseReport
from zhcache.errors import UsageError
from zhcache.protocol.placement import Placed
from zhcache.protocol.prompts import OwnRead
from zhcache.protocol.residency import Call, Returned
from zhcache.protocol.residency import Step as StepDone
from zhcache.resident import asking, counts
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder
from zhcache.resident.gather import gathered
from zhcache.resident.result import Result
from zhcache.resident.session import Session
from zhcache.resident.split import Part, of_kin, split
from zhcache.resident.steps import NoTensors, Steps, check_untouched


class NotHere(UsageError, AttributeError):
    """An attribute of pipelines that a stand-in cannot have."""


class ResidentPipeline:
    """Callable as the pipeline it stands for, with ``seed=`` and ``scheduler=`` besides.

    Attributes:
        repo: ``OWNER/NAME``.
        commit: Of the snapshot; all calls meet this one.
        variant: Which variant of it, or None.
        device: Where it runs: ``cpu`` or a GPU's UUID; the first where it has several.
        devices: Where each of its workers runs.
        class_name: The pipeline's class in diffusers.
        parameters: What a call takes.
        memory_report: How it was made to fit, where that was asked for.
        placement_report: Where its components are, and why, when it was opened; None where all of
            them are on each device.
    """

    repo: str
    commit: str
    variant: str | None
    device: str
    devices: tuple[str, ...]
    class_name: str
    parameters: tuple[str, ...]
    memory_report: str
    placement_report: Placed | None

    def __init__(
        self,
        session: Session,
        *,
        scheduler: Any = None,
        class_name: str | None = None,
        reader: Reader | None = None,
    ) -> None:
        opened = session.opened
        given = {
            "repo": opened.repo,
            "commit": opened.commit,
            "variant": opened.variant,
            "device": opened.device,
            "devices": tuple(opened.devices) or (opened.device,),
            "class_name": class_name or opened.class_name,
            "parameters": () if class_name else tuple(opened.parameters),
            "memory_report": opened.memory_report,
            "placement_report": opened.plan,
            "_session": session,
            "_scheduler": scheduler,
            "_other": class_name,
            "_reader": reader or Reader(None, opened.repo, opened.commit, opened.variant),
        }
        # Past our own __setattr__, which refuses what would look as if it had an effect.
        self.__dict__.update(given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the pipeline in its workers and returns its output.

        Besides the pipeline's own arguments: ``seed``, one whole number or one for each image,
        means ``torch.Generator("cpu").manual_seed(seed)``; ``scheduler`` names a class of
        diffusers for this call. ``callback_on_step_end`` is called here, with no tensors.
        Ctrl-C, and an error that the callback raises, cancel the call.

        With a seed or a generator for each image, images are made one by one, by all workers there
        are: each depends on its own prompt and seed alone. ``batch=N`` makes N together, which is
        faster on a GPU, and other in the last bits. Without seeds a list is divided among the
        workers. The callback then counts the steps of all images.

        Raises:
            UsageError: An argument that is unknown, cannot be meant or cannot be sent.
            NoSpace: The device's memory does not suffice.
            Cancelled: The call was cancelled from elsewhere.
            DaemonUnreachable: The daemon went away.
            NotFound: A text is Chinese, and nothing is there that reads it for this pipeline.
            ZhcacheError: What else the daemon or the pipeline reported.
        """
        # Of a call that is refused the report is not that of the one before.
        self._reader.forget()
        return self._made(args, kwargs)

    def several(
        self,
        calls: Sequence[Mapping[str, Any]],
        on_result: Callable[[int, Any, ChineseReport], object],
    ) -> None:
        """Makes several calls, by all workers there are; each is as it would be made alone.

        Args:
            calls: The arguments of each. The callback of the first is told the steps of all.
            on_result: Given which call it was, its output and what became of its texts, in the
                order in which they end.

        Raises:
            ZhcacheError: What one of them ended with; the others are cancelled.
        """
        reports: dict[int, ChineseReport] = {}

        def part(place: int) -> Part:
            made = self._prepared(self._arguments((), dict(calls[place])))
            reports[place] = self._reader.report
            return made

        def on_made(place: int, given: Part, made: Any, own: Sequence[OwnRead]) -> None:
            self._reader.resume(reports.pop(place))
            self._reader.add_own(given.arguments, own)
            on_result(place, made, self._reader.report)

        callback = calls[0].get(asking.CALLBACK) if calls else None
        self._run(len(calls), part, callback, on_made)

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = self._arguments(args, kwargs)
        batch = None if "batch" in self.parameters else arguments.pop("batch", None)
        whole = self._prepared(arguments)
        parts = split(
            whole.arguments,
            self._known,
            workers=self._session.workers,
            batch=batch,
            conditions=whole.conditions,
            has_one_net=self._session.opened.has_one_net,
        ) or [whole]
        own: dict[int, list[OwnRead]] = {}

        def on_made(place: int, part: Part, made: Any, read: Sequence[OwnRead]) -> None:
            own[place] = part.own(whole.arguments, read)
            results[place] = made

        results: list[Any] = [None] * len(parts)
        self._run(len(parts), parts.__getitem__, arguments.get(asking.CALLBACK), on_made)
        every = {(one.argument, one.place): one for place in sorted(own) for one in own[place]}
        self._reader.add_own(whole.arguments, list(every.values()))
        return results[0] if len(results) == 1 else gathered(results)

    @property
    def _known(self) -> Collection[str]:
        """What is known of the parameters."""
        return self.parameters or of_kin(self.class_name, self._session.opened.parameters)

    def _prepared(self, arguments: dict[str, Any]) -> Part:
        """Returns a whole call, its Chinese read."""
        prepared = self._reader.prepare(self.class_name, arguments, raw=True)
        if prepared is None:
            return Part(arguments, None, None)
        return Part(prepared.arguments, prepared.conditions, None)

    def _run(
        self,
        count: int,
        part: Callable[[int], Part],
        callback: Any,
        on_made: Callable[[int, Part, Any, Sequence[OwnRead]], object],
    ) -> None:
        """Makes ``count`` calls, each read by ``part`` when its turn comes."""
        flying: dict[int, tuple[Part, Encoder]] = {}
        steps = Steps(count)

        def make(place: int, number: int) -> tuple[Call, list[int]]:
            flying[place] = given, encoder = part(place), Encoder()
            call = asking.encoded(number, given.arguments, self._other, encoder, given.conditions)
            return call, encoder.finish()

        def on_event(place: int, event: Any) -> None:
            if callback is None or not isinstance(event, StepDone):
                return
            step = steps.count(place, event.step, event.total)
            if step is not None:
                check_untouched(callback(self, step, event.timestep, NoTensors()))

        def read(place: int, answer: Returned, fds: list[int]) -> None:
            given, encoder = flying.pop(place)
            made = _read(answer, fds, encoder.generators)
            steps.over(place)
            on_made(place, given, made, answer.own)

        self._session.calls(count, make, on_event, read)

    def using(self, class_name: str) -> ResidentPipeline:
        """Returns a stand-in for another pipeline class of diffusers over the same components.

        For instance ``pipe.using("StableDiffusionImg2ImgPipeline")``. It shares this one's lease.

        Raises:
            UsageError: It is no name; whether there is such a class is said at the first call.
        """
        is_name = isinstance(class_name, str) and bool(class_name)
        named = "the name of a pipeline class of diffusers"
        kinds.check({"class_name": (class_name, is_name, named)})
        return ResidentPipeline(
            self._session, scheduler=self._scheduler, class_name=class_name, reader=self._reader
        )

    @property
    def chinese_report(self) -> ChineseReport:
        """What became of the texts of the last call, this one's or its kin's by ``using``."""
        return self._reader.report

    def release(self) -> None:
        """Ends the lease; a second call does nothing."""
        self._session.end()
        self._reader.close()

    def __enter__(self) -> ResidentPipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self.parameters:
            arguments = asking.named(args, kwargs, self.parameters)
            asking.check(arguments, self.parameters)
        elif args:
            raise UsageError(
                "{kind} takes its arguments by name here", hint="prompt=...", kind=self.class_name
            )
        else:
            arguments = dict(kwargs)
            asking.check(arguments, tuple(arguments))
        asking.check_output(arguments.get("output_type"))
        # All of them before the call is cut: each part would see its own alone.
        arguments["seed"] = asking.seeds(arguments.get("seed"))
        counts.check(arguments, self._known)
        if arguments.get("seed") is not None and arguments.get("generator") is not None:
            raise UsageError("seed and generator exclude each other", hint="leave one out")
        if self._scheduler is not None and arguments.get("scheduler") is None:
            arguments["scheduler"] = self._scheduler
        return arguments

    def __getattr__(self, name: str) -> Any:
        raise NotHere(
            "a resident pipeline has no {name}: the pipeline lives in the daemon's worker",
            hint="load it with mode='attach' for that",
            name=name,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise NotHere(
            "a resident pipeline's {name} cannot be set: the pipeline is shared with others",
            hint="give the call scheduler=..., or load it with mode='attach'",
            name=name,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UsageError(
            "a resident pipeline cannot be copied or pickled: it is a connection",
            hint="call zhcache.load_pipeline where it is wanted; the weights stay warm",
        )

    def __repr__(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        return f"<resident {self.class_name} {self.repo}{variant} on {', '.join(self.devices)}>"


def _read(answer: Returned, fds: list[int], generators: list[Any]) -> Any:
    decoder = Decoder(fds, lenient=True)
    fields = {name: decoder.decode(value) for name, value in answer.fields.items()}
    for mine, used in zip(generators, answer.generators, strict=True):
        # As the pipeline in this process would have left it: the next call draws on.
        mine.set_state(decoder.decode(used).get_state())
    if answer.class_name == "tuple":
        return tuple(fields["items"])
    return Result(answer.class_name, fields)
