"""The web application around MONAI Label's routes. It adds what a permanently running server needs.

`server.application:app` is the ASGI application for `medsam2-atlas serve` and for the option `--uvicorn_app` of MONAI Label's
own command.

Concurrency contract. The event loop only parses, waits and sends. Inference runs in the single thread of the job queue
(`medsam2_atlas.base.jobs`). MONAI Label's own handlers are coroutines that never wait; they run in the thread pool
(`offloop`). The job queue's lock is the only lock that this package takes, and it never waits for anything else meanwhile.
"""
