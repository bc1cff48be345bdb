"""A real Apache Kafka broker for tests: one node, KRaft, run from the jars of Maven with the `java` of the machine.

`KAFKA_BOOTSTRAP_SERVERS` names a broker that runs already; tests that stop and start theirs are skipped then. Without
it, and without `java` and `mvn`, tests of Kafka are skipped with that reason, unless `MILLSTREAM_REQUIRE_KAFKA` is
set, as CI does.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

from tests.kits.certificates import self_signed
from tests.kits.waiting import wait_until

VERSION: Final = "4.1.0"
REQUIRED: Final = bool(os.environ.get("MILLSTREAM_REQUIRE_KAFKA"))
_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millstream.tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""
USER: Final = "flow"
PASSWORD: Final = "kafka-password-never-shown"
_JAVA: Final = (
    "-Xmx384m",
    "-Xms64m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
_CLUSTER: Final = "bWlsbHN0cmVhbS10ZXN0cw"
_START_S: Final = 60.0


def reason_without_broker() -> str | None:
    """Why no broker can run here; None if one can."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return None
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return (
        f"no {' and no '.join(missing)} to run a Kafka broker with; install it, or set KAFKA_BOOTSTRAP_SERVERS"
        if missing
        else None
    )


@functools.cache
def jars() -> Path:
    """The folder of the broker's jars in the user's cache; Maven downloads them the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millstream"
    folder = cache / f"kafka-{VERSION}-jars"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            aside = Path(tempfile.mkdtemp(prefix=".kafka-", dir=cache))
            (aside / "pom.xml").write_text(_POM)
            found = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(aside / "pom.xml"), "dependency:copy-dependencies",
                 f"-DoutputDirectory={aside / 'jars'}", "-DincludeScope=runtime"],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
            if found.returncode:
                shutil.rmtree(aside)
                raise RuntimeError(f"mvn could not bring the jars of Kafka {VERSION}: {found.stdout[-2000:]}")
            (aside / "jars").rename(folder)
            shutil.rmtree(aside)
    return folder


class Broker:
    """One node, broker and controller in one process; `stop` and `start` keep its data, its address and its cluster.

    Topics stamp records when they are appended (LogAppendTime), as the docs advise.
    """

    def __init__(self, folder: Path, **properties: str) -> None:
        """`properties` of the server, with `_` for `.`."""
        self.folder = folder
        port, secured, controller = _free_ports(3)
        self.servers = f"127.0.0.1:{port}"
        self.secured = f"127.0.0.1:{secured}"
        """The same broker over TLS, with `USER` and `PASSWORD`; the file `certificate` is its authority."""
        self.certificate = folder / "broker.crt"
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.servers},SASL_SSL://{self.secured},CONTROLLER://127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
            f'required user_{USER}="{PASSWORD}";',
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "broker.pem"),
            "log.dirs": str(folder / "data"),
            "log.message.timestamp.type": "LogAppendTime",
            "log.retention.check.interval.ms": "500",
            "log.initial.task.delay.ms": "100",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "offsets.topic.num.partitions": "1",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "log.cleaner.enable": "false",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
        } | {name.replace("_", "."): value for name, value in properties.items()}
        folder.mkdir(parents=True, exist_ok=True)
        key, certificate = self_signed()
        self.certificate.write_bytes(certificate)
        (folder / "broker.pem").write_bytes(key + certificate)
        (folder / "server.properties").write_text("".join(f"{n}={v}\n" for n, v in settings.items()))
        self._format(folder / "data")

    def start(self) -> Self:
        """Start the broker; return when it answers."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "kafka.Kafka", str(self.folder / "server.properties")],
                stdout=log, stderr=log, cwd=self.folder, env=_environment(),
            )  # fmt: skip
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

        def answers() -> bool:
            with contextlib.suppress(KafkaException):
                return bool(admin.list_topics(timeout=1.0).brokers)
            return False

        try:
            wait_until(
                answers, _START_S, "an answer of the broker", alive=lambda: self._process.poll() is None
            )
        except AssertionError as error:
            raise AssertionError(f"{error}: {(self.folder / 'broker.log').read_text()[-4000:]}") from None
        return self

    def stop(self, *, kill: bool = False) -> None:
        """Stop the broker cleanly, or with kill -9; its data stays."""
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _command(self) -> list[str]:
        return ["java", *_JAVA, "-cp", f"{jars()}/*"]

    def _format(self, data: Path) -> None:
        """Copy an empty storage of this node to `data`; it is made once, because it is always the same."""
        kept = jars().with_name(f"{jars().name}-formatted")
        if not kept.is_dir():
            config = str(self.folder / "server.properties")
            self._java("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", config)
            aside = Path(tempfile.mkdtemp(prefix=".formatted-", dir=kept.parent))
            shutil.copytree(data, aside / "data")
            with contextlib.suppress(OSError):  # another process may have been quicker
                (aside / "data").rename(kept)
            shutil.rmtree(aside)
        else:
            shutil.copytree(kept, data)

    def _java(self, *arguments: str) -> None:
        done = subprocess.run(
            [*self._command(), *arguments], capture_output=True, text=True, env=_environment(), check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "JAVA_HOME", "LANG") if name in os.environ}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@functools.cache
def shared() -> Broker | None:
    """The broker that all tests of this process share, started at the first call; None when `KAFKA_BOOTSTRAP_SERVERS`
    names one.
    """
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="millstream-kafka-"))
    own = Broker(folder).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(own.stop, kill=True)
    return own


def servers() -> str:
    """The address of the broker that all tests of this process share."""
    own = shared()
    return own.servers if own else os.environ["KAFKA_BOOTSTRAP_SERVERS"]


def unused_topic(name: str) -> str:
    """A topic name that is not in use."""
    return f"{name}.{uuid.uuid4().hex[:10]}"


def make_topic(servers: str, topic: str, partitions: int = 4, **config: str) -> None:
    """Create a topic and wait until it exists; `config` with `_` for `.`."""
    from confluent_kafka.admin import AdminClient, NewTopic

    plain = {name.replace("_", "."): value for name, value in config.items()}
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(topic, partitions, 1, config=plain)]).values():
        made.result(20)
    while topic not in admin.list_topics(timeout=5).topics:
        time.sleep(0.02)


def add_partitions(servers: str, topic: str, total: int) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_partitions([NewPartitions(topic, total)]).values():
        made.result(20)


def delete_before(servers: str, topic: str, partition: int, offset: int) -> None:
    """Delete the records before an offset, as retention does."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": servers})
    for done in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        done.result(20)


class Writer:
    """Appends records; sees new partitions within half a second."""

    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer

        self._failed: list[Any] = []
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "topic.metadata.refresh.interval.ms": 500,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    def send(
        self,
        topic: str,
        records: Iterable[tuple[str | None, bytes | None]],
        *,
        partition: int = -1,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Append (key, value) records; return when the broker has acknowledged them, without a time limit."""
        from confluent_kafka import KafkaError, KafkaException

        for key, value in records:
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, partition, self._note, headers=list((headers or {}).items())
                    )
                    break
                except KafkaException as error:  # a partition may be so new that the client does not know it
                    if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                        raise
                    self._producer.poll(0.1)
        while self._producer.flush(1.0):
            pass
        assert not self._failed, self._failed

    def _note(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failed.append(error)
