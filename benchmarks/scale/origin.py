"""The demo hub on a machine of its own: prints its address, then at each line read what it sent.

``python -m benchmarks.scale.origin HOST REPO FOLDER``; ends when its input does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from demohub import Hub
from demohub.repos import folder_files


def main() -> None:
    """Serves until nobody asks any more."""
    host, repo, folder = sys.argv[1:]
    with Hub(host) as hub:
        hub.add(repo, folder_files(Path(folder)))
        print(hub.url, flush=True)
        for _ in sys.stdin:
            asked = hub.requests
            told = {
                "bytes": hub.sent(),
                "questions": sum(1 for one in asked if one.plane == "meta"),
                "listings": sum(1 for one in asked if "/tree/" in one.path),
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
