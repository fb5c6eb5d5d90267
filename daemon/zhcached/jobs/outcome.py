"""What comes of doing a job: an end, a place in the queue again, or a defect that is told."""

from __future__ import annotations

import structlog

from zhcache.errors import Cancelled, ZhcacheError
from zhcache.protocol.failure import to_info
from zhcached.jobs import state
from zhcached.jobs.control import Control, Perform

log = structlog.get_logger()


def outcome(perform: Perform, record: state.Record, control: Control) -> state.State:
    """Does a job, in the thread of the caller, and returns the state that it ended in.

    Whatever the job raises is one: nothing comes out of here.
    """
    try:
        log.info("job.started", kind=record.kind)
        control.check()
        done = perform(record, control)
    except Cancelled:
        if control.suspended:
            return state.Queued()
        log.info("job.cancelled", by=control.cancelled_by)
        return state.Cancelled(control.cancelled_by)
    except ZhcacheError as error:
        log.warning("job.failed", code=error.code, error=str(error))
        return state.Failed(to_info(error), getattr(error, "verify", None))
    except Exception as error:
        log.exception("job.defect")
        defect = ZhcacheError(
            "the daemon met a defect of its own: {kind}: {text}",
            hint="zhcache logs {id} has the details; please report it",
            kind=type(error).__name__,
            text=error,
            id=record.id,
        )
        return state.Failed(to_info(defect))
    log.info("job.done")
    return done
