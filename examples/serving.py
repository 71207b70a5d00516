"""An outlier detector as a web service, without this library in the service.

A detector is trained and exported to ONNX. A FastAPI application scores rows with ONNX
Runtime; it needs neither skjko nor torch. A client sends rows over HTTP, and the rows
per second are printed beside those of Python: python examples/serving.py
"""

# SPDX-License-Identifier: BSD-3-Clause

import json
import math
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from skjko import JKOFlowOutlierDetector
from skjko.datasets import correlated_mixture


class Rows(BaseModel):
    """Body of a request: rows of numbers, columns in the order of `/columns`."""

    rows: list[list[float]]


def application(path):
    """Return the application that serves an exported detector."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    n_features, app = int(metadata["n_features"]), FastAPI()

    @app.get("/columns")
    def columns():
        return json.loads(metadata["feature_names"])

    @app.post("/score")
    def score(body: Rows):
        if not body.rows:
            return {"score": [], "outlier": []}
        for i, row in enumerate(body.rows):
            if len(row) != n_features or not all(map(math.isfinite, row)):
                message = f"row {i} must have {n_features} finite numbers"
                raise HTTPException(422, message)
        scores, decisions = session.run(None, {"X": np.array(body.rows, dtype=float)})
        # JSON has no infinity, the score of rows outside of the bounds.
        finite = [x if math.isfinite(x) else None for x in scores.tolist()]
        return {"score": finite, "outlier": (decisions < 0).tolist()}

    return app


class Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, app):
        super().__init__(uvicorn.Config(app, log_level="warning"))
        self.listening = threading.Event()

    async def startup(self, sockets=None):
        """Start, and tell."""
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def served(app):
    """Serve an application in a thread, at any free port; yield a client."""
    # Without the protocol's name asyncio would not send small packets at once.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    server = Server(app)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        server.listening.wait(timeout=60)
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def rows_per_second(function, X, size, seconds=3.0):
    """Score batches of some size for some seconds."""
    n, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        function(X[n % (len(X) - size + 1) :][:size])
        n += size
    return n / (time.perf_counter() - start)


def main():
    """Train, export, serve, and compare speeds."""
    distribution = correlated_mixture(10)
    X = distribution.sample(2000, random_state=0)
    rows = distribution.sample(2000, random_state=1)
    detector = JKOFlowOutlierDetector(random_state=0).fit(X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        detector.export(path)
        session = onnxruntime.InferenceSession(path)

        with served(application(path)) as client:

            def over_http(batch):
                reply = client.post("/score", json={"rows": batch.tolist()})
                return reply.raise_for_status().json()

            print("rows per second:   HTTP   ONNX Runtime   Python")
            for size in (1, 100, 1000):
                speeds = [
                    rows_per_second(function, rows, size)
                    for function in (
                        over_http,
                        lambda batch: session.run(None, {"X": batch}),
                        detector.score_samples,
                    )
                ]
                http, engine, python = speeds
                print(
                    f"batches of {size:4} {http:8.0f} {engine:14.0f} {python:8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
