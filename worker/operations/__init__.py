"""The use cases: what a person, a program or a server can ask of the worker.

They take settings or a queue, a `stop` event and observers, and return values. They print nothing,
end no process, and read no environment. `worker` re-exports the functions that make up its API.
"""
