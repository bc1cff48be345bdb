"""A model of Bytewax: workers, keyed parts, epochs, snapshots and recovery, in random order.

What Bytewax 0.21 promises is what holds here, and nothing more:

- Items of an edge keep their order; those of several senders meet in any order. A key has one part, on a worker that
may be another one in the next life. Items wait for parts to be built; parts of different steps are built in any order.
- Epochs follow each other at every step. A step takes the snapshots of an epoch, of the parts that were awake in it,
when all that it reads from has ended it. A source partition begins an epoch when all partitions have left the one
before, and leaves it only when the one before is durable. - An epoch is durable when the snapshots of all steps on all
workers are written. A start resumes from the last durable epoch, and everything after it happens again. - Notices come
late.

A process is one built graph; its workers share what the graph's steps share.
"""

from __future__ import annotations

import pickle
from collections import defaultdict, deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.sim.graph import INPUT, LOCAL, OUTPUT, STATEFUL, Graph, Node

MOST_STEPS: Final = 40_000


class Recovery:
    """What is durable: per step and part the snapshots up to an epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        """The last durable one."""
        self._durable: dict[str, dict[str, bytes]] = {}
        self._written: list[tuple[int, str, str, bytes]] = []

    def write(self, epoch: int, step: str, part: str, state: Any) -> None:
        """A snapshot; it counts once its epoch is durable."""
        self._written.append((epoch, step, part, pickle.dumps(state)))

    def commit(self) -> None:
        """The next epoch is durable."""
        self.epoch += 1
        for epoch, step, part, state in self._written:
            if epoch == self.epoch:
                self._durable.setdefault(step, {})[part] = state
        self._written = [snapshot for snapshot in self._written if snapshot[0] > self.epoch]

    def crash(self) -> None:
        """What is not durable is gone."""
        self._written = []

    def parts(self, step: str) -> list[str]:
        return sorted(self._durable.get(step, {}))

    def state(self, step: str, part: str) -> Any:
        """The durable state of a part, None if it has none."""
        state = self._durable.get(step, {}).get(part)
        return None if state is None else pickle.loads(state)


class _Step:
    """One step on one worker."""

    def __init__(self, node: Node, at: int, worker: int, epoch: int) -> None:
        self.node, self.at, self.worker = node, at, worker
        self.epoch = epoch
        self.queue: defaultdict[int, deque[Any]] = defaultdict(deque)
        """Items by their epoch: a sender may be ahead of another one."""
        self.parts: dict[str, Any] = {}
        self.built = node.kind == LOCAL
        self.awake: set[str] = set()
        self.notices: set[str] = set()
        self.epochs: dict[str, int] = {}
        """Of source partitions: the epoch each is in."""

    @property
    def busy(self) -> bool:
        """Whether there is something to do but to end the epoch."""
        return not self.built or bool(self.notices) or bool(self.queue.get(self.epoch))


class Cluster:
    """One life: from a start to a crash, or until `is_done`.

    `graphs` are the processes, each with `workers` workers.
    """

    def __init__(
        self,
        graphs: list[Graph],
        workers: int,
        recovery: Recovery,
        draw: Random,
        point: Callable[[], None],
        on_worker: Callable[[int], None],
    ) -> None:
        self._draw, self._recovery = draw, recovery
        self._point, self._on_worker = point, on_worker
        self.workers = len(graphs) * workers
        began = recovery.epoch + 1
        self._steps = [
            [_Step(node, at, worker, began) for at, node in enumerate(graphs[worker // workers])]
            for worker in range(self.workers)
        ]
        self._all = [step for row in self._steps for step in row]
        self._owner: dict[tuple[str, str], int] = {}
        self._sink_parts = {
            s.at: sorted(s.node.work.list_parts()) for s in self._steps[0] if s.node.kind == OUTPUT
        }
        (self._source,) = (s.at for s in self._steps[0] if s.node.kind == INPUT)

    def live(self, is_done: Callable[[Cluster], bool], outside: Callable[[], None]) -> None:
        """Steps until done; now and then something happens outside."""
        draw = self._draw
        for _ in range(MOST_STEPS):
            self._point()
            chance = draw.random()
            if chance < 0.15:
                outside()
                if is_done(self):
                    return
            elif chance < 0.25:
                self._commit()
            elif chance < 0.8 and (busy := self._any(lambda step: step.busy)):
                self._do(busy)
            elif chance < 0.9 and (ready := self._any(self._may_end)):
                self._end(ready)
            else:
                self._poll(draw.choice(self._steps)[self._source])
        raise AssertionError("the flow does not come to an end")

    @property
    def durable(self) -> int:
        return self._recovery.epoch

    @property
    def epoch(self) -> int:
        """The newest epoch a source partition is in."""
        return max(
            (e for row in self._steps for e in row[self._source].epochs.values()), default=self.durable + 1
        )

    @property
    def source_parts(self) -> list[Any]:
        return [part for row in self._steps for part in row[self._source].parts.values()]

    @property
    def idle(self) -> bool:
        """No part waits to be built, for items or for a notice."""
        return all(step.built and not any(step.queue.values()) and not step.notices for step in self._all)

    def _any(self, wanted: Callable[[_Step], bool]) -> _Step | None:
        """The first that is wanted, from a random one on."""
        at, n = self._draw.randrange(len(self._all)), len(self._all)
        return next((step for i in range(n) if wanted(step := self._all[(at + i) % n])), None)

    def _do(self, step: _Step) -> None:
        self._on_worker(step.worker)
        if not step.built:
            self._build(step)
        elif step.notices and (self._draw.random() < 0.5 or not step.queue.get(step.epoch)):
            self._notify(step)
        else:
            self._work(step)

    def _build(self, step: _Step) -> None:
        node = step.node
        known = node.kind == STATEFUL
        parts = self._recovery.parts(node.name) if known else sorted(node.work.list_parts())
        mine = [part for part in parts if self._worker(node.kind, part) == step.worker]
        self._draw.shuffle(mine)
        for part in mine:
            state = self._recovery.state(node.name, part)
            if node.kind == STATEFUL:
                step.parts[part] = node.work(state)
                self._look(step, part)
            else:
                step.parts[part] = node.work.build_part(node.name, part, state)
            self._point()
        if node.kind == INPUT:
            step.epochs = dict.fromkeys(mine, step.epoch)
        step.built = True

    def _worker(self, kind: str, part: str) -> int:
        """Keyed parts of all steps lie by their key; those of sources and sinks are dealt out by themselves."""
        of = STATEFUL if kind == STATEFUL else kind
        if (of, part) not in self._owner:
            self._owner[of, part] = self._draw.randrange(self.workers)
        return self._owner[of, part]

    def _poll(self, step: _Step) -> None:
        """Ask a source partition for more, or end its epoch."""
        self._on_worker(step.worker)
        ready = [part for part, epoch in step.epochs.items() if self._may_emit(epoch)]
        if not ready:
            return
        part = self._draw.choice(ready)
        epoch = step.epochs[part]
        if self._draw.random() < 0.8:
            self._emit(step, step.parts[part].next_batch(), epoch)
        elif epoch - 1 <= self.durable:
            self._recovery.write(epoch, step.node.name, part, step.parts[part].snapshot())
            step.epochs[part] += 1

    def _may_emit(self, epoch: int) -> bool:
        sources = [row[self._source] for row in self._steps]
        return all(s.built and all(e >= epoch for e in s.epochs.values()) for s in sources)

    def _work(self, step: _Step) -> None:
        queue = step.queue[step.epoch]
        items = [queue.popleft() for _ in range(self._draw.randint(1, len(queue)))]
        if step.node.kind == LOCAL:
            self._emit(step, step.node.work(items), step.epoch)
            return
        by_part: dict[str, list[Any]] = {}
        for key, value in items:
            by_part.setdefault(key, []).append(value)
        for key, values in by_part.items():
            step.awake.add(key)
            if step.node.kind == OUTPUT:
                step.parts[key].write_batch(values)
                continue
            if key not in step.parts:
                step.parts[key] = step.node.work(None)
            made, _ = step.parts[key].on_batch(values)
            self._emit(step, [(key, value) for value in made], step.epoch)
            self._look(step, key)

    def _notify(self, step: _Step) -> None:
        key = self._draw.choice(sorted(step.notices))
        step.awake.add(key)
        made, _ = step.parts[key].on_notify()
        self._emit(step, [(key, value) for value in made], step.epoch)
        self._look(step, key)

    def _look(self, step: _Step, key: str) -> None:
        wanted = step.parts[key].notify_at() is not None
        (step.notices.add if wanted else step.notices.discard)(key)

    def _emit(self, step: _Step, items: Any, epoch: int) -> None:
        for item in items:
            for at in step.node.downs:
                node = self._steps[step.worker][at].node
                worker, sent = step.worker, item
                if node.kind == STATEFUL:
                    worker = self._worker(STATEFUL, item[0])
                elif node.kind == OUTPUT:
                    parts = self._sink_parts[at]
                    part = parts[node.work.part_fn(item[0]) % len(parts)]
                    worker, sent = self._worker(OUTPUT, part), (part, item[1])
                self._steps[worker][at].queue[epoch].append(sent)

    def _may_end(self, step: _Step) -> bool:
        """Whether nothing of the step's epoch can come any more."""
        if step.node.kind == INPUT:
            rows = [row[self._source] for row in self._steps]
            if not all(s.built for s in rows):
                return False
            left = min(e for s in rows for e in s.epochs.values())
            return min(step.epochs.values(), default=left) > step.epoch
        if not step.built or step.queue.get(step.epoch):
            return False
        rows_before = [self._steps[step.worker]] if step.node.kind == LOCAL else self._steps
        return all(row[up].epoch > step.epoch for row in rows_before for up in step.node.ups)

    def _end(self, step: _Step) -> None:
        """Leave an epoch, with snapshots."""
        self._on_worker(step.worker)
        awake = sorted(step.awake)
        self._draw.shuffle(awake)
        for part in awake:
            self._recovery.write(step.epoch, step.node.name, part, step.parts[part].snapshot())
            self._point()
        step.awake.clear()
        step.queue.pop(step.epoch, None)
        step.epoch += 1
        for at in step.node.downs:  # steps without state only pass it on
            after = self._steps[step.worker][at]
            if after.node.kind == LOCAL and self._may_end(after):
                self._end(after)

    def _commit(self) -> None:
        if all(step.epoch > self.durable + 1 for step in self._all):
            self._recovery.commit()
