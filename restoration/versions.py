"""The face networks that callers choose from by name: loaded on first use, kept within a bound."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from restoration.networks import Network
from restoration.weights import Weights

log = logging.getLogger(__name__)

FILES = {
    "v1.2": "GFPGANv1.2.pth",
    "v1.3": "GFPGANv1.3.pth",
    "v1.4": "GFPGANv1.4.pth",
    "RestoreFormer": "RestoreFormer.pth",
}


class Versions:
    """The face networks, one object each, by name: the wrong one can never answer."""

    def __init__(self, weights: Weights, load: Callable[[Path], Network], max_bytes: int) -> None:
        self._weights, self._load, self._max_bytes = weights, load, max_bytes
        self._loaded: OrderedDict[str, Network] = OrderedDict()

    def get(self, version: str) -> Network:
        """Return the network, loading it if needed; raises `WeightsError`, `OutOfMemory`."""
        if version not in self._loaded:
            network = self._load(self._weights.path(FILES[version]))
            self._make_room(network.nbytes)
            self._loaded[version] = network
        self._loaded.move_to_end(version)
        return self._loaded[version]

    def _make_room(self, nbytes: int) -> None:
        while self._loaded and sum(network.nbytes for network in self._loaded.values()) + nbytes > self._max_bytes:
            name, _ = self._loaded.popitem(last=False)
            log.info("%s unloaded: the limit on loaded networks is %d bytes", name, self._max_bytes)
