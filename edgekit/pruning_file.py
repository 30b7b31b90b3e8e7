"""pruning.json: what `edgekit prune` says in the folder that it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRUNING_FILE = "pruning.json"


def pruning_text(document: Mapping[str, Any]) -> str:
    """The file's content; lists of numbers take one line each."""
    text = json.dumps(document, indent=2) + "\n"
    return re.sub(r"\[\s+([-+.,eE\d\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def read_pruning(folder: Path) -> Mapping[str, Any]:
    """The document of a folder; an empty one where there is none that can be read."""
    try:
        document = json.loads((folder / PRUNING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
