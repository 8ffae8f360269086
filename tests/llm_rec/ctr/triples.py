"""Users who repeat triples of items, with noise in between; which events are noise is known."""

from typing import NamedTuple

import numpy as np

from llm_rec.ctr.event_windows import EventSequences

USERS, LENGTH, ITEMS, TRIPLES, OWN = 100, 40, 24, 6, 2
NOISE = 0.1
SIZE = ITEMS + 2  # ids, with padding and unknown


class World(NamedTuple):
    events: EventSequences  # items and categories; times count from 0 for each user
    noise: np.ndarray


def triples_world(seed: int = 0) -> World:
    """Each user plays two of six triples in random order; every event is a uniformly drawn item with chance .1."""
    random = np.random.default_rng(seed)
    triples = random.permuted(np.tile(np.arange(ITEMS), (TRIPLES, 1)), axis=1)[:, :3]
    own = random.permuted(np.tile(np.arange(TRIPLES), (USERS, 1)), axis=1)[:, :OWN]
    played = np.take_along_axis(own, random.integers(OWN, size=(USERS, LENGTH)), 1)
    clean = triples[played].reshape(USERS, -1)
    noise = random.random((USERS, LENGTH)) < NOISE
    place = np.maximum(np.cumsum(~noise, axis=1) - 1, 0)
    items = np.where(noise, random.integers(ITEMS, size=noise.shape), np.take_along_axis(clean, place, 1)).ravel()
    ids = np.stack([items + 2, items % 5 + 2], axis=1)
    times, starts = np.tile(np.arange(LENGTH), USERS), np.arange(USERS + 1) * LENGTH
    return World(EventSequences(ids, times, starts), noise.ravel())
