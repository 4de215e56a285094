"""Reads and writes safetensors files with NumPy alone.

A file is the length of its header (u64, little endian), the header in JSON (name -> dtype, shape, data_offsets) and the
values one after the other. The order of names counts where arrays travel without them: that of the list `order` in the
metadata, else that of the header.
"""

import json

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def parse(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a file as float32, by name."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name in json.loads(metadata.get("order", "null")) or header:
        entry = header[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"Expected one of {', '.join(DTYPES)} for {name} but received {entry['dtype']}")
        begin, end = (start + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], dtype=DTYPES[entry["dtype"]])
        arrays[name] = values.reshape(entry["shape"]).astype(np.float32)
    return arrays


def encode(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of a file with these arrays as float32."""
    bodies = {name: np.ascontiguousarray(values, dtype="<f4") for name, values in arrays.items()}
    header, end = {}, 0
    for name, values in bodies.items():
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in bodies.values())
