#!/usr/bin/env python3
"""names.py LISTEN NAME ADDRESS: a name server that knows one name, for tests. Says every name that it is asked for."""
import socket
import sys


def question(packet):
    """The name that is asked for, and where the question ends."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels).lower(), at + 5


def main(listen, known, address):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((listen, 53))
    while True:
        packet, sender = server.recvfrom(4096)
        name, end = question(packet)
        kind = int.from_bytes(packet[end - 4 : end - 2], "big")
        print(name, kind, flush=True)
        is_known = name == known
        answers = [b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)] if is_known and kind == 1 else []
        flags = b"\x84\0" if is_known else b"\x84\3"
        head = packet[:2] + flags + b"\0\1" + len(answers).to_bytes(2, "big") + b"\0\0\0\0"
        server.sendto(head + packet[12:end] + b"".join(answers), sender)


if __name__ == "__main__":
    main(*sys.argv[1:])
