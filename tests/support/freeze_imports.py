"""Imported last by a fork server: what collects garbage or counts objects in its children leaves its imports out."""

import gc

gc.collect()
gc.freeze()
