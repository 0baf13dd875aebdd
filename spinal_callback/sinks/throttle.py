"""How often a tracker gets alerts and images. Trackers do not limit this themselves."""

from __future__ import annotations

import math
import time

from ..records import Alert

ALERT_SECONDS = 60.0  # between two alerts of one rule and level: trackers send them on, by e-mail for instance
IMAGE_SECONDS = 30.0  # between two images: training waits a tenth of a second for each


class AlertThrottle:
    """Lets one alert per rule and level through in `ALERT_SECONDS`."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, str], float] = {}

    def allows(self, alert: Alert) -> bool:
        """Whether to send this alert. If so, it counts as sent."""
        now, key = time.monotonic(), (alert.rule, alert.level)
        if now - self._sent.get(key, -math.inf) < ALERT_SECONDS:
            return False
        self._sent[key] = now
        return True


class ImageThrottle:
    """Lets one image through in `IMAGE_SECONDS`, and at the end one more if there are readings it does not show."""

    def __init__(self) -> None:
        self._last, self._shown = -math.inf, 0

    def allows(self, readings: int, at_the_end: bool = False) -> bool:
        """Whether to draw an image of the `readings` so far. If so, it counts as drawn."""
        if readings == self._shown or (not at_the_end and time.monotonic() - self._last < IMAGE_SECONDS):
            return False
        self._last, self._shown = time.monotonic(), readings
        return True
