"""The Kafka of a run: one that is started here, or one that was named.

Promises: topics of a name of its own, and none of them is left on a Kafka that is not ours. Does not know: the daemon.
"""

import os
import signal
import struct
import threading

from . import KAFKA, ROOT, run

PARTITIONS = 4


class Cluster:
    def __init__(self, name, bootstrap):
        """`name`: what its topics' names begin with."""
        self.bootstrap, self.broker = bootstrap, None
        self.topics, self.lock = [], threading.Lock()
        self.mark = f"{name}-{os.getpid()}"

    @staticmethod
    def start(name, directory, version, nodes, session_ms):
        """`session_ms`: how long a broker that is gone, or stands still, counts as alive. Only then is a leader that was killed
        replaced, a broker that was killed let in again, and a follower that stands still no longer waited for."""
        command = [ROOT / "scripts" / "kafka", "start", "--version", version, "--dir", directory, "--nodes", nodes]
        for setting in (
            f"broker.session.timeout.ms={session_ms}",
            f"broker.heartbeat.interval.ms={session_ms // 6}",
            "replica.lag.time.max.ms=60000",
        ):
            command += ["--set", setting]
        cluster = Cluster(name, run([*command, "--until-exit-of", os.getpid()]).strip())
        # Only what was started here may be hurt.
        cluster.broker = KAFKA.Cluster.load(directory)
        return cluster

    def stop(self):
        if self.broker:
            KAFKA.stop_cluster(self.broker, signal.SIGKILL, remove=True)
        else:
            self.remove_topics()

    # --- processes

    def freeze(self, node):
        self.broker.signal(node, signal.SIGSTOP)

    def thaw(self, node):
        self.broker.signal(node, signal.SIGCONT)

    def kill(self, node):
        self.broker.end([node], signal.SIGKILL)

    def restart(self, node):
        """Does not wait for it: see `ready`."""
        self.broker.spawn(node)

    def ready(self):
        self.broker.ready()

    def has_tail(self, leader, others, topic):
        """Whether a leader's log of partition 0 is longer than those of the others, by their files."""

        def size(node):
            folder = self.broker.dir / f"node-{node}" / "data" / f"{topic}-0"
            return sum(path.stat().st_size for path in folder.glob("*.log"))

        return size(leader) > max(size(node) for node in others)

    # --- questions

    def ask(self, question, *arguments):
        """Puts it to the first server that answers."""
        last = None
        for server in self.bootstrap.split(","):
            host, port = server.rsplit(":", 1)
            try:
                return question((host, int(port)), *arguments)
            except (OSError, struct.error) as error:
                last = error
        raise KAFKA.Failure(f"no Kafka at {self.bootstrap}: {last}")

    def topic(self, name, nodes=None, partitions=PARTITIONS, configs=None):
        """`nodes`: the replicas of each partition, the first one leads; else `partitions` of them, spread over all."""
        name = f"{self.mark}-{name}"
        if nodes is None:
            known = sorted(self.ask(KAFKA.metadata)["brokers"])
            spread = range(min(3, len(known)))
            nodes = [[known[(first + at) % len(known)] for at in spread] for first in range(partitions)]

        def made():
            error, message = self.ask(KAFKA.create_topics, {name: (len(nodes), nodes, configs or {})})[name]
            if error not in (0, 36, 7, 38, 41, 19, 14, 15):  # as in scripts/kafka
                raise KAFKA.Failure(f"topic {name}: error {error} {message or ''}")
            return error in (0, 36)

        with self.lock:
            self.topics.append(name)
        KAFKA.until(30, f"creating {name}", made)
        KAFKA.until(30, f"leaders of {name}", lambda: len(self.leaders(name)) == len(nodes))
        return name

    def configure(self, topic, name, value):
        """Sets a topic's property, by IncrementalAlterConfigs 0."""
        body = struct.pack(">ib", 1, 2) + KAFKA.text(topic) + struct.pack(">i", 1)
        body += KAFKA.text(name) + struct.pack(">b", 0) + KAFKA.text(str(value)) + struct.pack(">b", 0)

        def put(address):
            with KAFKA.Wire(address, timeout=15) as wire:
                answer = wire.ask(44, 0, body)
            answer.take("i")
            return answer.array(lambda: (answer.take("h"), answer.text(), answer.take("b"), answer.text()))

        for error, message, _kind, _topic in self.ask(put):
            if error:
                raise KAFKA.Failure(f"topic {topic}: {name}={value}: error {error} {message or ''}")

    def remove_topics(self):
        body = struct.pack(">i", len(self.topics)) + b"".join(KAFKA.text(name) for name in self.topics)

        def remove(address):
            with KAFKA.Wire(address, timeout=15) as wire:
                wire.ask(20, 1, body + struct.pack(">i", 10_000))  # DeleteTopics

        if self.topics:
            self.ask(remove)

    def partitions(self, topic):
        error, partitions = self.ask(KAFKA.metadata, [topic])["topics"].get(topic, (3, {}))
        return {} if error else partitions

    def leaders(self, topic):
        return {index: leader for index, (leader, _, _) in self.partitions(topic).items() if leader >= 0}

    def in_sync(self, topic):
        partitions = self.partitions(topic)
        return partitions and all(set(replicas) == set(in_sync) for _, replicas, in_sync in partitions.values())

    def end_offset(self, topic, partition):
        """The high watermark, by ListOffsets 4."""
        port = self.broker.node(self.leaders(topic)[partition])["port"]
        body = struct.pack(">ibi", -1, 0, 1) + KAFKA.text(topic) + struct.pack(">iiiq", 1, partition, -1, -1)
        with KAFKA.Wire(port) as wire:
            answer = wire.ask(2, 4, body)
        answer.take("i")  # throttled
        answer.take("i"), answer.text(), answer.take("i"), answer.take("i")  # one topic, one partition
        error, _time, offset = answer.take("h"), answer.take("q"), answer.take("q")
        if error:
            raise KAFKA.Failure(f"ListOffsets: error {error}")
        return offset
