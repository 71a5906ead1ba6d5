"""What the processes tell Prometheus."""

from service.metrics.exposition import exposition, negotiated
from service.metrics.port import serve_metrics
from service.metrics.series import WEBHOOK_OUTCOMES, Metrics
from service.metrics.shared import SharedState

__all__ = ["WEBHOOK_OUTCOMES", "Metrics", "SharedState", "exposition", "negotiated", "serve_metrics"]
