"""A stand-in for a pipeline that a worker of the daemon's holds. Needs no torch here.

It is called as the pipeline is, and gives its images. What else a pipeline in this process could
do (its components, their weights, moving them) it refuses with an error that says what to do.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from zhcache.chinese.reader import Reader
from zhcache.chinese.report import ChineseReport
from zhcache.errors import UsageError
from zhcache.protocol.residency import Call, Returned, Step
from zhcache.resident import asking
from zhcache.resident.decode import Decoder
from zhcache.resident.encode import Encoder
from zhcache.resident.result import Result
from zhcache.resident.session import Session


class NotHere(UsageError, AttributeError):
    """An attribute of pipelines that a stand-in cannot have."""


class ResidentPipeline:
    """Callable as the pipeline it stands for, with ``seed=`` and ``scheduler=`` besides.

    Attributes:
        repo: ``OWNER/NAME``.
        commit: Of the snapshot; all calls meet this one.
        variant: Which variant of it, or None.
        device: Where it runs: ``cpu`` or a GPU's UUID.
        class_name: The pipeline's class in diffusers.
        parameters: What a call takes.
        memory_report: How it was made to fit, where that was asked for.
    """

    repo: str
    commit: str
    variant: str | None
    device: str
    class_name: str
    parameters: tuple[str, ...]
    memory_report: str

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
            "class_name": class_name or opened.class_name,
            "parameters": () if class_name else tuple(opened.parameters),
            "memory_report": opened.memory_report,
            "_session": session,
            "_scheduler": scheduler,
            "_other": class_name,
            "_reader": reader or Reader(None, opened.repo, opened.commit, opened.variant),
        }
        # Past our own __setattr__, which refuses what would look as if it had an effect.
        self.__dict__.update(given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the pipeline in its worker and returns its output.

        Besides the pipeline's own arguments: ``seed``, one whole number or one for each image,
        means ``torch.Generator("cpu").manual_seed(seed)``; ``scheduler`` names a class of
        diffusers for this call. ``callback_on_step_end`` is called here, with no tensors.
        Ctrl-C, and an error that the callback raises, cancel the call.

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
        arguments = self._arguments(args, kwargs)
        callback = arguments.get(asking.CALLBACK)
        prepared = self._reader.prepare(self.class_name, arguments, raw=True)
        given = arguments if prepared is None else prepared.arguments
        conditions = None if prepared is None else prepared.conditions
        encoder = Encoder()

        def make(number: int) -> tuple[Call, list[int]]:
            call = asking.encoded(number, given, self._other, encoder, conditions)
            return call, encoder.finish()

        def on_event(event: Any) -> None:
            if callback is not None and isinstance(event, Step):
                _check_untouched(callback(self, event.step, event.timestep, _NoTensors()))

        def read(answer: Returned, fds: list[int]) -> Any:
            self._reader.add_own(given, answer.own)
            return _read(answer, fds, encoder.generators)

        return self._session.call(make, on_event, read)

    def using(self, class_name: str) -> ResidentPipeline:
        """Returns a stand-in for another pipeline class of diffusers over the same components.

        For instance ``pipe.using("StableDiffusionImg2ImgPipeline")``. It shares this one's lease.
        """
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
        return f"<resident {self.class_name} {self.repo}{variant} on {self.device}>"


class _NoTensors(dict[str, Any]):
    """What a callback is given for tensors: none, and an error instead of a bare KeyError."""

    def __missing__(self, name: str) -> Any:
        raise UsageError(
            "{name} stays in the worker; a resident pipeline's callback sees step and timestep",
            hint="load the pipeline with mode='attach' to look at tensors",
            name=name,
        )


def _read(answer: Returned, fds: list[int], generators: list[Any]) -> Any:
    decoder = Decoder(fds, lenient=True)
    fields = {name: decoder.decode(value) for name, value in answer.fields.items()}
    for mine, used in zip(generators, answer.generators, strict=True):
        # As the pipeline in this process would have left it: the next call draws on.
        mine.set_state(decoder.decode(used).get_state())
    if answer.class_name == "tuple":
        return tuple(fields["items"])
    return Result(answer.class_name, fields)


def _check_untouched(returned: object) -> None:
    if isinstance(returned, dict) and returned:
        raise UsageError(
            "the callback returned {names}: a resident pipeline's tensors cannot be changed",
            hint="return nothing, or load the pipeline with mode='attach'",
            names=", ".join(str(name) for name in returned),
        )
