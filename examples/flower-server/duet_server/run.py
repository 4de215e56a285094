"""What both ServerApps share: where a run begins, and what it leaves behind."""

import base64
from pathlib import Path

import numpy as np

from . import safetensors

Arrays = dict[str, np.ndarray]


def initial_arrays(config) -> Arrays:
    """Return the file named by `initial-arrays`, else the arrays inside the app, else nothing."""
    path = str(config["initial-arrays"])
    if path:
        return safetensors.parse(Path(path).expanduser().read_bytes())
    try:
        from .initial_arrays import SAFETENSORS
    except ImportError:
        return {}
    return safetensors.parse(base64.b64decode(SAFETENSORS))


def keep(config, server_round: int, arrays: Arrays) -> None:
    """Write the arrays after a round into the folder named by `output`."""
    if not config["output"]:
        return
    folder = Path(str(config["output"])).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{server_round:04d}.safetensors"
    whole = path.with_suffix(".part")
    whole.write_bytes(safetensors.encode(arrays))
    whole.replace(path)
