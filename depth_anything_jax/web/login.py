"""The page's password: where it is read from, and how often wrong ones may be tried."""

from __future__ import annotations

import collections
import ipaddress
import os
import pathlib
import time

VARIABLE = "DEPTH_ANYTHING_AUTH"
SHORTEST = 12  # minimum length of a password, as it can be guessed over the network
WRONG = 10  # passwords per minute and network
NETWORKS = 10_000  # that are remembered


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at this name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def credentials(host: str, file: str | None) -> tuple[str, str] | None:
    """Reads user and password; None where none is given and none is needed.

    Args:
      host: name or address that the server will listen at.
      file: holds user:password on one line; None: the environment variable VARIABLE, if set.

    Raises:
      ValueError: other machines are served and there is no password; or it is too short, or other
        users of this machine can read it.
    """
    if file is not None:
        path = pathlib.Path(file).expanduser()
        if not path.is_file():
            raise ValueError(
                f"--auth={file.partition(':')[0]}…: no such file. Name a file that holds "
                f"user:password, because all users of this machine can see command lines; or set "
                f"{VARIABLE}"
            )
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ValueError(f"--auth={file}: others can read it; chmod 600 {file}")
        try:
            text, where = path.read_text(encoding="utf-8"), f"--auth={file}"
        except UnicodeDecodeError as error:
            raise ValueError(f"--auth={file}: must be a text of UTF-8, user:password") from error
    else:
        text, where = os.environ.get(VARIABLE, ""), VARIABLE
    if not text.strip():
        if is_loopback(host) and file is None:
            return None
        raise ValueError(
            f"--host={host} serves other machines, which requires a password: put "
            f"user:password into a file and name it with --auth, or set {VARIABLE}"
        )
    user, colon, password = text.strip().partition(":")
    if not (user and colon) or len(password) < SHORTEST:
        raise ValueError(
            f"{where}: must be user:password, with a password of {SHORTEST} characters or more"
        )
    return user, password


class WrongPasswords:
    """Counts wrong passwords of the last minute, for each network that they come from.

    A network is an IPv4 address, or the first 64 bits of an IPv6 address. Others can go on: who
    guesses does not lock out the owner.
    """

    def __init__(self) -> None:
        self._times: collections.OrderedDict[str, collections.deque[float]] = (
            collections.OrderedDict()
        )

    def too_many(self, address: str) -> bool:
        """Whether an address must wait."""
        times = self._times.get(_network(address))
        return times is not None and len(times) == WRONG and time.monotonic() - times[0] < 60

    def add(self, address: str) -> None:
        """Counts one."""
        network = _network(address)
        times = self._times.setdefault(network, collections.deque(maxlen=WRONG))
        times.append(time.monotonic())
        self._times.move_to_end(network)
        if len(self._times) > NETWORKS:
            self._times.popitem(last=False)

    def take_back(self, address: str) -> None:
        """Counts one less: the password was right."""
        times = self._times.get(_network(address))
        if times:
            times.pop()


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket
        return address
    if ip.version == 4:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
