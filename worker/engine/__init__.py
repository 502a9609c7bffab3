"""Claim, embed, complete: what `worker process` runs. Sees the database and the models only
through the protocols of `worker.queue` and `worker.embedders.base`."""
