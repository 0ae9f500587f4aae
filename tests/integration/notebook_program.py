"""Run cells in a real kernel, as a notebook does, and tell what appeared below each: JSON in, JSON out.

A program of its own, as a kernel's client keeps threads and sockets.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from typing import Any

from jupyter_client.manager import start_new_kernel

LIMIT_S = 60.0


def below(outputs: dict[str, Any], message: dict[str, Any]) -> None:
    """Add what a message says to what is below its cell."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        outputs[content["name"]] += content["text"]
    elif kind == "error":
        outputs["error"] = f"{content['ename']}: {content['evalue']}"
    elif kind in ("display_data", "execute_result", "update_display_data"):
        data = content["data"]
        identity = content.get("transient", {}).get("display_id")
        shown = {"id": identity, "html": data.get("text/html"), "text": data.get("text/plain")}
        if kind == "update_display_data":
            outputs["updates"].append(shown)
        else:
            outputs["shown"].append(shown)


def run(cells: list[str]) -> list[dict[str, Any]]:
    """Run the cells one after the other; what comes late counts for the cell that it names."""
    found: list[dict[str, Any]] = []
    by_parent: dict[str, dict[str, Any]] = {}
    manager, client = start_new_kernel(startup_timeout=LIMIT_S)
    try:
        for cell in cells:
            outputs: dict[str, Any] = {
                "stdout": "", "stderr": "", "error": None, "shown": [], "updates": []
            }  # fmt: skip
            found.append(outputs)
            identity = client.execute(cell)
            by_parent[identity] = outputs
            deadline = time.monotonic() + LIMIT_S
            is_idle = False
            while not is_idle:
                message = client.get_iopub_msg(timeout=deadline - time.monotonic())
                parent = message["parent_header"].get("msg_id")
                is_idle = parent == identity and message["content"].get("execution_state") == "idle"
                if parent in by_parent:
                    below(by_parent[parent], message)
        while True:
            try:
                message = client.get_iopub_msg(timeout=0.3)
            except queue.Empty:
                return found
            if message["parent_header"].get("msg_id") in by_parent:
                below(by_parent[message["parent_header"]["msg_id"]], message)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    os.environ.pop("PYTEST_CURRENT_TEST", None)  # a kernel looks at it, and is another one then
    json.dump(run(json.load(sys.stdin)), sys.stdout)
