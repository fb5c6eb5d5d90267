"""A command run as a child: the signals meant for it passed on, and its end its parent's."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from types import TracebackType

from zhcache.errors import NotFound, NotPermitted, ZhcacheError

_PASSED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_FROM_KERNEL = 0x80
"""``SI_KERNEL``: a key pressed at the terminal, whose whole foreground group got the signal."""


class Signals:
    """Signals waited for instead of handled, so that none comes between two steps.

    For the main thread, before other threads begin: they inherit that these are held back.
    """

    def __enter__(self) -> Signals:
        """Holds them back."""
        # Of an ignored signal nothing would be told.
        self._chld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED | {signal.SIGCHLD})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # One that came as the child ended is not this process's to die of.
        while self.wait(0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)
        signal.signal(signal.SIGCHLD, self._chld)

    def wait(self, seconds: float) -> signal.struct_siginfo | None:
        """Returns the next signal, or None after that time."""
        return signal.sigtimedwait(_PASSED | {signal.SIGCHLD}, max(0.0, seconds))


class Child:
    """A running command. It writes where this process does, and reads what it reads.

    ``exit_code`` is None until it was seen to have ended, ``usage`` what it took by then.

    Args:
        command: Program and arguments.
        signals: Entered; the child gets none of them held back.
        is_apart: Whether what it writes to stdout goes to stderr: stdout is for something else.

    Raises:
        ZhcacheError: There is no such program, or it cannot be run.
    """

    def __init__(self, command: Sequence[str], signals: Signals, *, is_apart: bool = False) -> None:
        self.exit_code: int | None = None
        self.usage: resource.struct_rusage | None = None
        actions = [(os.POSIX_SPAWN_DUP2, 2, 1)] if is_apart else []
        try:
            self.pid = os.posix_spawnp(
                command[0],
                list(command),
                os.environ,
                file_actions=actions,
                setsigmask=signals.before,
                # Python ignores these; a program that inherited that would not end with its pipe.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except FileNotFoundError:
            raise NotFound("there is no program {program}", program=command[0]) from None
        except PermissionError:
            raise NotPermitted("{program} may not be run", program=command[0]) from None
        except OSError as error:
            raise ZhcacheError(
                "{program} cannot be run: {reason}", program=command[0], reason=error.strerror
            ) from error

    def take(self, told: signal.struct_siginfo) -> None:
        """Passes a signal on; of one that says that a child ended, finds out how."""
        if told.si_signo == signal.SIGCHLD:
            self.poll()
        elif told.si_code != _FROM_KERNEL and self.exit_code is None:
            os.kill(self.pid, told.si_signo)

    def poll(self) -> None:
        """Finds out whether it has ended: where other threads run, its signal may be theirs."""
        if self.exit_code is None:
            self._reap()

    def abandon(self) -> None:
        """Ends it, where what was to be done beside it cannot be; waits for nothing."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == self.pid:
            code = os.waitstatus_to_exitcode(status)
            # As shells tell it.
            self.exit_code = 128 - code if code < 0 else code
            self.usage = usage
