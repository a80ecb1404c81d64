# SPDX-License-Identifier: Apache-2.0
"""channel.py - a byte stream from a machine's port: logged to a file, searched with deadlines."""

import socket
import threading
import time


class Channel:
    """One connected Unix socket with a reader thread; `wait` searches what arrived since a mark."""

    def __init__(self, path, deadline):
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                self._sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._data = bytearray()
        self._log = None
        self._closed = False
        self._cond = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        while True:
            try:
                got = self._sock.recv(65536)
            except OSError:
                got = b""
            with self._cond:
                if got:
                    self._data += got
                    if self._log:
                        self._log.write(got)
                        self._log.flush()
                else:
                    self._closed = True
                self._cond.notify_all()
            if not got:
                return

    def log_to(self, path):
        """From now on also writes what arrives to the file `path`; starts a new mark and forgets what came before."""
        with self._cond:
            if self._log:
                self._log.close()
            self._log = open(path, "ab") if path else None
            self._data.clear()

    def mark(self):
        with self._cond:
            return len(self._data)

    def since(self, mark):
        with self._cond:
            return bytes(self._data[mark:])

    def send(self, data):
        self._sock.sendall(data)

    def wait(self, pattern, timeout, mark=0, on_data=None):
        """The first match of the compiled bytes `pattern` after `mark`, or None after `timeout` seconds or at the
        stream's end. `on_data(bytes)` sees everything that arrives in the meantime, without gaps."""
        deadline = time.monotonic() + timeout
        shown = mark
        with self._cond:
            while True:
                if on_data and len(self._data) > shown:
                    on_data(bytes(self._data[shown:]))
                    shown = len(self._data)
                match = pattern.search(self._data, mark)
                left = deadline - time.monotonic()
                if match or left <= 0 or self._closed:
                    # a copy: the buffer may not grow while a match refers to it
                    return pattern.search(bytes(self._data), mark) if match else None
                match = None
                self._cond.wait(min(left, 1.0))

    @property
    def closed(self):
        return self._closed

    def close(self):
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()
        self._thread.join(5)
        if self._log:
            self._log.close()
            self._log = None
