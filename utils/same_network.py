"""Whether two configs train networks of the same kind and size: exit status 0 if they do, 1 if not.

python utils/same_network.py egs/voxceleb/conf/dino.yaml egs/voxceleb/conf/round.yaml
"""

import sys
from pathlib import Path
from typing import Any

from cslib.config import UserError, find, load_yaml, values_of, with_bases


def network_of(config: str) -> Any:
    """The section `network`, with what the file takes over from others and with what is left to the defaults."""
    values: dict[str, Any] = {}
    for path in values_of("--config", with_bases(["--config", config])):
        values |= load_yaml(Path(path)).get("network") or {}
    name = values.pop("name", None)
    return name and (name, find("models", name).Config(**values))


if __name__ == "__main__":
    try:
        sys.exit(network_of(sys.argv[1]) != network_of(sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")
