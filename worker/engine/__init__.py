"""Claim, embed, complete: the engine of `worker process` and `worker run`. It uses the database and
the models only through the protocols of `worker.queue` and `worker.embedders.base`."""
