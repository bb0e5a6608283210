"""What a node says of the machine it runs on, read from the operating system (Linux and macOS)."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess

from atoll_control.api.v1 import node_pb2


def host_facts() -> node_pb2.Host:
    """The facts of this machine; zero or empty where the system does not tell."""
    return node_pb2.Host(
        name=socket.gethostname(),
        cpus=os.cpu_count() or 0,
        memory_bytes=memory_bytes(),
        os=platform.system().lower(),
        architecture=platform.machine(),
    )


def memory_bytes() -> int:
    """Physical memory, or 0 where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 0
    if total > 0:
        return total
    sysctl = shutil.which("sysctl", path="/usr/sbin:/sbin:" + os.defpath)
    if sysctl is None:
        return 0
    answer = subprocess.run([sysctl, "-n", "hw.memsize"], capture_output=True, text=True, check=False)  # noqa: S603
    text = answer.stdout.strip()
    return int(text) if text.isdecimal() else 0
