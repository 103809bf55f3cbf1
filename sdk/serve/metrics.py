"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)
_ROWS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server; no text of users is in them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "personalizer_requests", "Requests by path and status.", ["path", "status"], registry=None
        )
        self.seconds = Histogram(
            "personalizer_request_seconds", "Of requests.", ["path"], buckets=_SECONDS, registry=None
        )
        self.pictures = Counter("personalizer_pictures", "Pictures drawn.", registry=None)
        self.batch_rows = Histogram("personalizer_batch_rows", "Pictures of a batch.", buckets=_ROWS, registry=None)
        self.batch_seconds = Histogram("personalizer_batch_seconds", "Of a batch.", buckets=_SECONDS, registry=None)
        self.packs = Counter("personalizer_pack_reads", "Packs: hit, miss, evicted.", ["what"], registry=None)
        self.waiting = Gauge("personalizer_waiting", "Pictures in the line.", registry=None)
        self.held = Gauge("personalizer_pack_bytes", "Of packs in memory.", registry=None)
        for each in vars(self).copy().values():  # not the library's own registry, which two servers would share
            if each is not self.registry:
                self.registry.register(each)

    def batch(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self.pictures.inc(rows)
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def pack(self, what: str) -> None:
        """Count a pack that was asked for."""
        self.packs.labels(what).inc()

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request, by the path's pattern."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
