"""Wire one flow process: settings, logs, metrics, recovery, flow.

`module_flow` is for `flows.payments` and the other modules that Bytewax's own command imports.
`run` is for `python -m flows.run` and for runs over files, which call Bytewax themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from feature_repo.errors import MillstreamError
from flows import metrics
from flows.process import disk, logs, recovery
from flows.process.without_pandas import without_pandas
from flows.settings import FlowSettings

log = structlog.get_logger(__name__)

_cli_main: Any = cli_main


def module_flow(stream: str) -> Dataflow:
    """The module-level flow of a stream.

    Under `python -m bytewax.run` this also sets up logs, recovery, the home's lock and metrics.
    """
    settings = FlowSettings()
    options = recovery.run_options()
    if options is None:
        return _built(stream, settings)
    without_pandas()
    logs.configure(settings.log_format)
    run = recovery.run_name(settings)
    recovery.reexec_with_recovery(settings, stream, run)
    require_same_key(settings)
    flow = _built(stream, settings, restarts=True)
    config = options.get("recovery_config")
    if config is not None:
        recovery.guard(flow, settings, stream, Path(config.db_dir))
    metrics.serve(settings.metrics_host, settings.metrics_port)
    log.info("flow.start", stream=stream, run=run, home=str(settings.home), bus=settings.redis_url)
    return flow


def run(stream: str, settings: FlowSettings, workers: int = 1, *, restarts: bool = False) -> None:
    """Run a flow in this process, on `workers` threads: to the end of its files, or until it is stopped.

    Raises `MillstreamError`. `restarts`: replace this process by a new start of its command when the views to fold
    change (`flows.window_state.view_watch`).
    """
    name = recovery.run_name(settings)
    with _own_errors(settings):
        with disk.writing("the home", settings.home):
            require_same_key(settings)
            config = recovery.config(settings, stream, name)
            flow = _built(stream, settings, restarts=restarts)
            if config is not None:
                recovery.guard(flow, settings, stream, recovery.folder(settings, stream, name))
        metrics.serve(settings.metrics_host, settings.metrics_port)
        log.info("flow.start", stream=stream, run=name, home=str(settings.home), epoch_ms=settings.epoch_ms)
        try:
            _cli_main(
                flow,
                workers_per_process=workers,
                epoch_interval=settings.epoch_interval,
                recovery_config=config,
            )
        finally:
            recovery.release(settings, stream)
    log.info("flow.end", stream=stream, run=name)


@contextlib.contextmanager
def _own_errors(settings: FlowSettings) -> Iterator[None]:
    """Raise the `MillstreamError` that Bytewax has wrapped in its own error.

    Errors of its recovery store become `DiskError`.
    """
    try:
        yield
    except MillstreamError:
        raise
    except BaseException as error:  # a panic of Bytewax is no Exception
        own = _wrapped(error) or disk.as_disk_error(error, settings.home)
        if own is None:
            raise
        raise own from None


def _built(stream: str, settings: FlowSettings, *, restarts: bool = False) -> Dataflow:
    """The flow. Its imports take seconds, so they come after `reexec_with_recovery`."""
    from flows.pipeline import build
    from flows.streams import STREAMS
    from flows.window_state.folded_views import LEFT_OUT, FoldedViews
    from flows.window_state.view_watch import ViewWatch

    views = FoldedViews.read(stream, settings)
    if restarts and recovery.can_reexec(settings):
        again = lambda left_out: recovery.reexec(**{LEFT_OUT: ",".join(sorted(left_out))})  # noqa: E731
        ViewWatch(views, settings, again).start()
    return build(STREAMS[stream], settings, views)


def require_same_key(settings: FlowSettings) -> None:
    """Raise `SettingsError` without a pseudonym key (or `off`), or with another than the home's."""
    from feature_repo import privacy

    written = any(settings.log_dir.glob("*/*.parquet"))
    privacy.check_key(settings.home, privacy.of_settings(settings), written=written)


def _wrapped(error: BaseException | None) -> MillstreamError | None:
    """The `MillstreamError` among an error and its causes, if there is one."""
    while error is not None and not isinstance(error, MillstreamError):
        error = error.__cause__
    return error
