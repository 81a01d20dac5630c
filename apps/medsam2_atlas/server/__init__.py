"""The web application around MONAI Label's routes: what a server that is left running needs.

`server.application:app` is the ASGI application, for `medsam2-atlas serve` and for `--uvicorn_app` of MONAI Label's own
command.

Concurrency contract. The event loop only parses, waits and sends. Inference runs in the one thread of the job queue
(`medsam2_atlas.base.jobs`); MONAI Label's own handlers, which are coroutines that never wait, run in the thread pool
(`offloop`). The job queue's lock is the only one that this package takes, and never while it waits for something else.
"""
