"""A bad line between two network namespaces: carries Ethernet frames from one interface to another, late and with losses.

    lossy-link.py link <interface> <interface> <delay in ms> <share of frames lost>

Runs between two veth ends. A line "cut" on standard input stops all frames, "mend" lets them through again.
The losses are drawn with a fixed seed. Standard library only.

    lossy-link.py plain <interface>

makes the other end fill in checksums and send no frame beyond the MTU, which veth leaves to a card that is not there.
"""

import array
import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

SIOCETHTOOL = 0x8946
TCP_SEGMENTATION, GENERIC_SEGMENTATION, GENERIC_RECEIVE, SEND_CHECKSUM = 0x1F, 0x24, 0x2C, 0x17


def plain(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for feature in (TCP_SEGMENTATION, GENERIC_SEGMENTATION, GENERIC_RECEIVE, SEND_CHECKSUM):
            off = array.array("B", struct.pack("II", feature, 0))
            request = struct.pack("16sP", name.encode(), off.buffer_info()[0])
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def opened(name):
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    line.bind((name, 0))
    line.setblocking(False)
    return line


def link(names, delay, loss):
    lines = [opened(name) for name in names]
    draws = random.Random(1)
    waiting = []
    number = 0
    cut = False
    print("ready", flush=True)
    while True:
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(waiting)
            if cut:
                continue
            try:
                lines[target].send(frame)
            except OSError:
                pass  # a full queue loses frames, as lines do
        pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([*lines, sys.stdin], [], [], pause)
        if sys.stdin in readable:
            word = sys.stdin.readline().strip()
            if not word:
                return
            cut = word == "cut"
            print(word, flush=True)
        for index, line in enumerate(lines):
            while line in readable:
                try:
                    frame, address = line.recvfrom(65536)
                except BlockingIOError:
                    break
                if address[2] == socket.PACKET_OUTGOING or cut or draws.random() < loss:
                    continue
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay, number, 1 - index, frame))


if sys.argv[1] == "plain":
    plain(sys.argv[2])
else:
    link(sys.argv[2:4], float(sys.argv[4]) / 1000, float(sys.argv[5]))
