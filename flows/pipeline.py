"""Wire the flow of one stream from its steps: the only place where they meet.

The source is the bus, Kafka or files. `run` names it: `bus`, `kafka`, or `files-<fingerprint>` for a run over certain
files. Each run has its own log part and its own recovery state, so that reading the same files again continues, or adds
nothing.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import FixedPartitionedSource

from flows.accept.admit import admission
from flows.accept.dead_letter_limit import DeadLetterLimiter
from flows.accept.stages import Acceptance
from flows.enrich.derive import HeartbeatRows, ShardSplitter, derive_context, derive_part
from flows.enrich.join import Joiner
from flows.log.dead_letters import DeadLetterSink, StorableDeadLetters
from flows.log.sink import LogSink
from flows.online.plain_sink import PlainOnlineSink
from flows.online.rollback_detector import RollbackDetector
from flows.online.sink import OnlineSink, connect
from flows.online.writers import Projections
from flows.process.recovery import run_name
from flows.settings import FlowSettings
from flows.sources.files import FileSource
from flows.sources.kafka import KafkaSource
from flows.sources.redis_retention import trims_bus
from flows.sources.redis_streams import RedisStreamSource
from flows.streams import EventStream
from flows.window_state.fold import FoldContext, folding
from flows.window_state.folded_views import FoldedViews
from flows.window_state.partition import StatesContext
from flows.window_state.replay import LogReplay
from flows.window_state.route import Router

log = structlog.get_logger(__name__)


def build(stream: EventStream, settings: FlowSettings, views: FoldedViews | None = None) -> Dataflow:
    """The dataflow of a stream, from its source to the log, the dead letters and the online store.

    `views`: the windowed views to fold; None reads them from the home.
    """
    run = run_name(settings)
    accept = Acceptance(stream, settings)
    views = views or FoldedViews.read(stream.name, settings)
    source: FixedPartitionedSource[Any, Any]
    own: AbstractSet[str]
    topic: KafkaSource | None = None
    if settings.files:
        source = FileSource(settings.files, settings)
        own = frozenset(source.list_parts())
    elif settings.source == "kafka":
        source = topic = KafkaSource(stream, settings)
        own = topic.partitions
    else:
        trims = trims_bus(accept.pseudonyms, settings)
        source = RedisStreamSource(stream.bus_parts(settings.bus_partitions), settings, trim=trims)
        own = frozenset(source.list_parts())
    limit = DeadLetterLimiter(stream, settings)

    flow = Dataflow(stream.name)
    blocks: Stream[Any] = op.input("source", flow, source)  # RawBlock | ArrowBlock
    settled = op.flat_map_batch(
        "accept", blocks, accept.accept_blocks
    )  # Events: valid rows without plain personal values, and dead letters
    keyed = op.key_on("by_partition", settled, lambda events: events.partition)  # (partition, Events)
    admitted = op.stateful_batch("admit", keyed, admission(stream, settings, run))  # (partition, Events)
    passed = op.map_value("limit", admitted, limit)  # (partition, Events)

    box = StorableDeadLetters(stream, accept.pseudonyms)
    letters = op.flat_map_value("rejected", passed, box)  # (partition, RecordBatch of dead letters, sealed)
    op.output("dead_letters", letters, DeadLetterSink(run, stream, settings))

    joined = (
        op.map_value("join", passed, Joiner(stream, settings, topic.newest if topic else None))
        if stream.joins
        else passed
    )
    kept = _derived(joined, stream, settings, run, own) if stream.program else joined  # (part, Events)
    accepted = op.map_value(
        "accepted", kept, lambda events: events.rows.select(stream.log_schema.names)
    )  # (part, RecordBatch)
    op.output("log", accepted, LogSink(run, stream, settings))
    op.output("plain_online", accepted, PlainOnlineSink(run, stream, settings))

    fold = _fold_context(stream, settings, run, own, views)
    slices = op.flat_map_batch(
        "route", op.key_rm("any_key", kept), Router(views.entities, settings.key_shards)
    )  # (part, LiveSlice)
    states = op.stateful_batch("fold", slices, folding(fold))  # (part, OnlineRows)
    op.output("online", states, OnlineSink(fold.projections, settings, views.applied.every_kept()))
    return flow


def _derived(
    joined: Stream[Any], stream: EventStream, settings: FlowSettings, run: str, own: AbstractSet[str]
) -> Stream[Any]:
    """(shard, Events as the log keeps them); blocks without rows bypass the step, so that the log sees every epoch."""
    context = derive_context(stream, settings, run, own)
    pieces = op.flat_map("cut", op.key_rm("any_partition", joined), ShardSplitter(context))  # (shard, Piece)
    derived = op.stateful_batch("derive", pieces, derive_part(context))  # (shard, Events)
    beats = op.flat_map_value("beat", joined, HeartbeatRows(stream))  # (partition, Events without rows)
    return op.merge("kept", derived, beats)


def _fold_context(
    stream: EventStream, settings: FlowSettings, run: str, own: AbstractSet[str], views: FoldedViews
) -> FoldContext:
    """What all fold parts share."""
    entities = views.entities
    states = StatesContext(
        stream=stream,
        settings=settings,
        entities=entities,
        replay=LogReplay(stream, settings, entities),
        own_partitions=own,
        run=run,
    )
    applied = views.applied.project
    projections = Projections(connect(settings) if applied else None, applied, settings.key_shards)
    for specs in entities.values():
        projections.of(specs)
    live = not settings.files
    detector = RollbackDetector(projections.client, applied, stream.name) if applied and live else None
    return FoldContext(states, projections, views.applied.every_kept(), live=live, detector=detector)
