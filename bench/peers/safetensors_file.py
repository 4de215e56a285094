"""Reads safetensors files without a library, so that the peer needs PyTorch alone.

A file is an 8-byte little-endian header length, a JSON header (name -> dtype, shape, byte range) and the data.
Tensors are read straight into their own memory: nothing is mapped, so reading adds nothing to the peak memory.
"""
import json
import struct

import torch

DTYPES = {
    'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16, 'F64': torch.float64,
    'I64': torch.int64, 'I32': torch.int32, 'U8': torch.uint8, 'BOOL': torch.bool,
}


class SafetensorsFile:
    """`with SafetensorsFile(path) as f: f['name']`, or `f.read_into('name', tensor)` for one that exists."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, 'rb', buffering=0)
        length = struct.unpack('<Q', self.file.read(8))[0]
        header = json.loads(self.file.read(length))
        header.pop('__metadata__', None)
        self.entries = header
        self.start = 8 + length

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.file.close()

    def names(self):
        return list(self.entries)

    def shape(self, name):
        return tuple(self.entries[name]['shape'])

    def read_into(self, name, tensor):
        entry = self.entries[name]
        if DTYPES[entry['dtype']] != tensor.dtype or tuple(entry['shape']) != tuple(tensor.shape):
            raise ValueError(f'{self.path}: expected {tensor.dtype} {tuple(tensor.shape)} for {name} '
                             f"but found {entry['dtype']} {entry['shape']}")
        begin, end = entry['data_offsets']
        self.file.seek(self.start + begin)
        view = memoryview(tensor.detach().view(torch.uint8).reshape(-1).numpy() if tensor.dim() else
                          tensor.detach().reshape(1).view(torch.uint8).numpy())
        done = 0
        while done < end - begin:
            count = self.file.readinto(view[done:])
            if not count:
                raise ValueError(f'{self.path}: ends inside {name}')
            done += count

    def __getitem__(self, name):
        entry = self.entries[name]
        tensor = torch.empty(entry['shape'], dtype=DTYPES[entry['dtype']])
        if tensor.numel():
            self.read_into(name, tensor)
        return tensor


def read_all(path):
    """Every tensor of the file by name."""
    with SafetensorsFile(path) as file:
        return {name: file[name] for name in file.names()}
