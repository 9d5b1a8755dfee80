"""From loaded settings to a running supervisor: what must be right before the first fork, in the order in which it is cheap to refuse."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from swarm import app_metrics, events
from swarm.app import App
from swarm.errors import AppError, SwarmError
from swarm.loading import app_problems, load_app, own_frames, refuse_threads, secrets_of
from swarm.logs import Log, Output, install
from swarm.selection import chosen_groups
from swarm.supervisor import succession
from swarm.supervisor.loop import Supervisor
from swarm.supervisor.pidfile import PidFile
from swarm.supervisor.processes import load_children

if TYPE_CHECKING:
    from swarm.config import Loaded
    from swarm.supervisor.succession import Heritage


def run(
    loaded: Loaded,
    *,
    ready: Callable[[], None] | None = None,
    left: Heritage | None = None,
) -> int:
    """Supervise the swarm of these settings in this process; returns its exit code.

    Raises SwarmError for everything that is wrong before the first fork. `ready` is called once, when every worker has
    reported or failed. Must be called in the main thread of a process without other threads; blocks until the stop.
    left: what this process has left to itself before it executed itself anew (a reload): then nothing that is wrong ends it, and
    the workers that there are stay supervised.
    """
    from swarm.config import choose_run_dir, choose_state_dir

    settings = loaded.settings
    if left is None:
        run_dir = choose_run_dir(settings)
        state_dir = choose_state_dir(settings, run_dir)
        pid_file = PidFile(run_dir / "swarm.pid")
        pid_file.write()
    else:
        run_dir, state_dir = Path(left.run_dir), Path(left.state_dir)
        pid_file = PidFile.adopt(run_dir / "swarm.pid", left.pid_file)
    output = Output()
    log = Log(settings.log.level, settings.log.format, output)
    log.hide = secrets_of(settings, None)
    install(log)
    try:
        for warning in loaded.warnings:
            log.event(events.SettingsWarning(warning))
        _prepare_metrics(run_dir / "metrics", log, keep=left is not None)
        load_children()
        if left is None:
            app, groups = _prepare(loaded)
        else:
            app, groups, left = _prepare_again(loaded, left)
        app_metrics.forget_parent(run_dir / "metrics")
        log.hide = secrets_of(settings, app)

        def worker_log(index: int) -> Log:
            output.forked()
            own = Log(settings.log.level, settings.log.format, output, index)
            own.hide = log.hide
            install(own)
            return own

        supervisor = Supervisor(loaded, app, groups, run_dir, state_dir, pid_file, log, worker_log, ready, left)
    except BaseException:
        pid_file.remove()
        raise
    logging.captureWarnings(True)
    return supervisor.run()


def _prepare_metrics(directory: Path, log: Log, *, keep: bool) -> None:
    try:
        app_metrics.prepare(directory, keep=keep)
    except OSError as error:
        what = f"the application's own metrics are not served: {directory}: {error.strerror}"
        log.event(events.SupervisorWarning(what))


def _prepare_again(loaded: Loaded, left: Heritage) -> tuple[App | None, list[str], Heritage]:
    """The same after a reload. None also where it does not load, though it did in the rehearsal: workers that end from now on load it by
    themselves, as far as it goes."""
    if left.reload_error:
        return None, left.groups, left
    try:
        with succession.time_limit(loaded.settings.supervision.reload_timeout):
            return *_prepare(loaded), left
    except Exception as error:
        # Its threads, its modules, what it did to signals: all that goes with one more execution, in which it is not loaded.
        left = replace(left, reload_error=str(error) or type(error).__name__)
        with contextlib.suppress(OSError):
            succession.succeed(left)
        return None, left.groups, left


def _prepare(loaded: Loaded) -> tuple[App | None, list[str]]:
    """The preloaded app, checked; None with `preload = false`, where each worker loads it."""
    from swarm.preflight import refused_properties

    app, groups = _preload(loaded)
    refused = refused_properties(loaded, app)
    if refused:
        raise SwarmError("\n".join(str(problem) for problem in refused))
    return app, groups


def _preload(loaded: Loaded) -> tuple[App | None, list[str]]:
    settings = loaded.settings
    assert settings.swarm.app is not None
    if not settings.swarm.preload:
        return None, []
    app = load_app(settings.swarm.app, loaded.base_dir)
    problems = app_problems(app, settings.swarm.group_id, settings)
    if problems:
        raise SwarmError("\n".join(f"{where}: {what}. {fix}" for where, what, fix in problems))
    for hook in app.before_fork_hooks:
        try:
            hook()
        except BaseException as error:
            name = getattr(hook, "__qualname__", repr(hook))
            raise AppError(
                f"before_fork hook {name} raised {type(error).__name__}: {error}", own_frames(error)
            ) from error
    refuse_threads()
    return app, sorted(chosen_groups(app, settings.swarm))
