"""Take a screenshot of a page with headless Chromium, over its DevTools pipe.

Only the standard library and a Chromium on the machine (``apt-get install chromium``) are needed::

    python scripts/screenshot.py http://127.0.0.1:5000 page.png --width 1600 --text pqbench
    python scripts/screenshot.py URL page.png --eval 'document.querySelector("button").click()'
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """A headless browser with one page; a context manager that ends its own process."""

    def __init__(self, width: int, height: int, timeout_s: float) -> None:
        program = next((p for name in BROWSERS if (p := shutil.which(name))), None)
        if program is None:
            sys.exit("no Chromium found: apt-get install chromium")
        self._timeout_s = timeout_s
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        from_us, self._write = os.pipe()
        self._read, to_us = os.pipe()
        size = f"--window-size={width},{height}"
        # the browser reads commands from descriptor 3 and writes answers to descriptor 4
        wiring = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
        self._process = subprocess.Popen(
            ["bash", "-c", wiring, program, *FLAGS, size, f"--user-data-dir={self._profile.name}"],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._buffer = b""
        self._count = 0
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session: str | None = self.call("Target.attachToTarget", attach)["sessionId"]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", metrics)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)  # the browser quits when its pipe closes
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        self._profile.cleanup()

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one command and return its result; events on the way are dropped."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params or {}}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._timeout_s
        while True:
            while b"\0" in self._buffer:
                raw, _, self._buffer = self._buffer.partition(b"\0")
                answer = json.loads(raw)
                if answer.get("id") == self._count:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']['message']}")
                    result: dict[str, Any] = answer["result"]
                    return result
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"{method}: no answer in {self._timeout_s:g} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError(f"{method}: the browser ended")
            self._buffer += chunk

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", {"url": url})
        end = time.monotonic() + self._timeout_s
        there = f"location.href == {json.dumps(url)} && document.readyState == 'complete'"
        while not self.run(there):
            if time.monotonic() > end:
                raise TimeoutError(f"{url} did not load in {self._timeout_s:g} s")
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page and return its value."""
        params = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", params)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description"))
        return answer["result"].get("value")


def main() -> None:
    parser = argparse.ArgumentParser(description="Screenshot of a page")
    parser.add_argument("url")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1600, help="pixels")
    parser.add_argument("--height", type=int, default=1000, help="pixels")
    parser.add_argument("--wait", type=float, default=5, help="seconds to let it settle")
    parser.add_argument("--text", help="first wait until the page shows this, at most --timeout")
    parser.add_argument(
        "--eval", action="append", default=[], metavar="JS",
        help="run in the page before the shot, 1.5 s apart; its value is printed; repeatable",
    )  # fmt: skip
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one command")
    args = parser.parse_args()
    with Browser(args.width, args.height, args.timeout) as browser:
        browser.call("Page.navigate", {"url": args.url})
        if args.text:
            wanted = f'(document.body?.innerText ?? "").includes({json.dumps(args.text)})'
            end = time.monotonic() + args.timeout
            while not browser.run(wanted) and time.monotonic() < end:
                time.sleep(0.5)
        time.sleep(args.wait)
        for script in args.eval:
            print(browser.run(script))
            time.sleep(1.5)
        shot = browser.call("Page.captureScreenshot", {"format": "png"})
    args.out.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
