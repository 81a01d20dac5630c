"""Measures response times, failures and the server's memory while twenty annotators work at once (`make load`).

Each annotator repeats the same steps: request `/info` and the next case, download the image, run a model, save a label map. One
long inference after another runs meanwhile. Prints the number of requests, the statuses and the times in milliseconds for each
route.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import psutil
import requests
from rich.table import Table

from studies import make_studies

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from medsam2_atlas.base.console import console

sys.setswitchinterval(0.0005)  # as in the server; otherwise the threads of this script would mostly wait for each other
ANNOTATORS, SECONDS, CASES = 20, float(sys.argv[1]) if len(sys.argv) > 1 else 180.0, 8


class Watch:
    """The response times and statuses, by route."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)

    def send(self, session: requests.Session, name: str, method: str, url: str, **options: object) -> requests.Response:
        began = time.perf_counter()
        answer = session.request(method, url, timeout=300, **options)  # type: ignore[arg-type]
        with self.lock:
            self.times[name].append(time.perf_counter() - began)
            self.statuses[name][answer.status_code] += 1
        return answer


def annotate(url: str, number: int, labels: list[Path], end: float, watch: Watch) -> None:
    session, generator = requests.Session(), random.Random(number)
    while time.monotonic() < end:
        time.sleep(generator.uniform(0.2, 1.5))
        watch.send(session, "/info/", "GET", f"{url}/info/")
        case = watch.send(
            session, "/activelearning", "POST", f"{url}/activelearning/random", json={"client_id": str(number)}
        ).json()
        study = case.get("id") or f"case-{generator.randrange(CASES)}"
        watch.send(session, "/datastore/image", "GET", f"{url}/datastore/image", params={"image": study})
        model = generator.choice(["unet_3d"] * 4 + ["atlas"])
        watch.send(session, "/infer", "POST", f"{url}/infer/{model}", params={"image": study, "output": "image"})
        label = labels[int(study.split("-")[1])]
        with label.open("rb") as stream:
            watch.send(
                session,
                "/datastore/label",
                "PUT",
                f"{url}/datastore/label",
                params={"image": study, "tag": f"annotator-{number}"},
                files={"label": (label.name, stream)},
            )


def occupy(url: str, end: float, watch: Watch) -> None:
    """Runs one long inference after another; the organ changes each time, so that no result comes from a cache."""
    session, number = requests.Session(), 0
    while time.monotonic() < end:
        params = {"params": f'{{"segmenter": "D", "organs": "{1 + number % 15}"}}'}
        watch.send(session, "/infer (long)", "POST", f"{url}/infer/medsam2_atlas", params={"image": "case-0"}, data=params)
        number += 1


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conf = make_studies(folder, CASES, 4711, 3.0)
        labels = sorted((folder / "cases" / "labels").iterdir())
        with server(folder / "studies", folder / "work", conf, anew=True) as client:
            url, watch = client.get_server_url().rstrip("/"), Watch()
            process = psutil.Process(process_of(client).pid)
            for n in range(CASES):  # so that the models are loaded before the measurement
                client.infer("unet_3d", f"case-{n}", {})
            before, began = process.memory_info().rss, time.monotonic()
            end = began + SECONDS
            people = [threading.Thread(target=annotate, args=(url, n, labels, end, watch)) for n in range(ANNOTATORS)]
            people.append(threading.Thread(target=occupy, args=(url, end, watch)))
            for person in people:
                person.start()
            for person in people:
                person.join()
            took, after = time.monotonic() - began, process.memory_info().rss
    table = Table("route", "requests", "statuses", "median ms", "p99 ms", title=f"{ANNOTATORS} annotators, {took:.0f} s")
    for route, times in sorted(watch.times.items()):
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(watch.statuses[route].items()))
        table.add_row(
            route, str(len(times)), statuses, f"{1e3 * np.median(times):.0f}", f"{1e3 * np.percentile(times, 99):.0f}"
        )
    console.print(table)
    console.print(f"memory of the server: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after")


if __name__ == "__main__":
    main()
