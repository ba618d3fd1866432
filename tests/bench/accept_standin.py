#!/usr/bin/env python3
"""Ways of sharing one listening socket between processes, without the gateway around them: figures for people.

    python3 tests/bench/accept_standin.py [SECONDS]

Four workers of one thread each share a non-blocking listener, as the gateway's do, and answer a request over a fresh connection
after WORK microseconds of work. What differs is who is woken:

  all        every worker's epoll is woken by every connection (what the gateway does)
  exclusive  EPOLLEXCLUSIVE: the kernel wakes one, or a few
  blocking   a thread per worker waits in accept(): the kernel wakes them in turn
"""
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time

WORKERS, WORK = 4, 200e-6
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


def work():
    end = time.perf_counter() + WORK
    while time.perf_counter() < end:
        pass


def serve(connection, count):
    connection.setblocking(True)
    if connection.recv(4096):
        work()
        connection.sendall(ANSWER)
        count.value += 1
    connection.close()


def worker(mode, listener, count, empty):
    if mode == "blocking":
        # Handed over to the one thread that serves, as a runtime would be.
        ours, theirs = socket.socketpair()
        waiting = []
        listener.setblocking(True)

        def accept():
            while True:
                waiting.append(listener.accept()[0])
                theirs.send(b"x")

        threading.Thread(target=accept, daemon=True).start()
        while ours.recv(1):
            serve(waiting.pop(0), count)
        return
    epoll = select.epoll()
    flags = select.EPOLLIN | (select.EPOLLEXCLUSIVE if mode == "exclusive" else 0)
    epoll.register(listener, flags)
    while True:
        epoll.poll()
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            empty.value += 1
            continue
        serve(connection, count)


def client(address, until, latencies):
    seen, failed = [], 0
    while time.time() < until:
        begin = time.perf_counter()
        try:
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: g\r\n\r\n")
                good = connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            good = False
        if good:
            seen.append(time.perf_counter() - begin)
        else:
            failed += 1
    latencies.put((seen, failed))


def measure(mode, clients, seconds, kills):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    listener.setblocking(False)
    fork = multiprocessing.get_context("fork")
    counts = [fork.Value("l", 0, lock=False) for _ in range(WORKERS)]
    empty = [fork.Value("l", 0, lock=False) for _ in range(WORKERS)]

    def start(number):
        process = fork.Process(target=worker, args=(mode, listener, counts[number], empty[number]), daemon=True)
        process.start()
        return process

    workers = [start(number) for number in range(WORKERS)]
    latencies, until = fork.Queue(), time.time() + seconds
    callers = [fork.Process(target=client, args=(listener.getsockname(), until, latencies)) for _ in range(clients)]
    for caller in callers:
        caller.start()
    number = 0
    while kills and time.time() < until - 1:
        time.sleep(0.5)
        os.kill(workers[number].pid, signal.SIGKILL)
        workers[number].join()
        workers[number] = start(number)
        number = (number + 1) % WORKERS
    results = [latencies.get() for _ in callers]
    for process in callers:
        process.join()
    for process in workers:
        process.kill()
        process.join()
    seen = sorted(second for result, _ in results for second in result)
    failed = sum(count for _, count in results)
    at = lambda share: seen[min(int(len(seen) * share), len(seen) - 1)] * 1000 if seen else 0
    print(
        f"{mode:<9} {clients:>3} callers{', kills' if kills else '':<7}: {len(seen):>6} answered, {failed} failed; "
        f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, p99.9 {at(0.999):.2f} ms; "
        f"per worker {[count.value for count in counts]}, woken for nothing {sum(count.value for count in empty)}",
        flush=True,
    )


if __name__ == "__main__":
    time_each = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    for kill in (False, True):
        for callers in (8, 64):
            for way in ("all", "exclusive", "blocking"):
                measure(way, callers, time_each, kill)
