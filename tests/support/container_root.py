"""Makes the root of a container out of this machine's programs, by commands of a shell."""

import os
import shutil
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
#: Where programs lie that have a file capability.
PROGRAMS = "/opt/programs"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", **{name: f"/proc/self/fd/{n}" for n, name in enumerate(
    ("stdin", "stdout", "stderr")
)}}  # fmt: skip
_USERS = {"root": 0, "postgres": 999, "srmill": 1000}


@dataclass
class ContainerRoot:
    """The root of one container, which `commands` make in a mount namespace of its own.

    Attributes:
        path: where the root is, on this machine.
    """

    path: Path
    commands: list[str] = field(default_factory=lambda: ["mount --make-rprivate /"])

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        self._tmpfs("", "mode=755")

    def take_machine(self) -> None:
        """Shows this machine's programs and settings, and the /dev of a container."""
        for folder in ("/bin", "/sbin", "/lib", "/lib64"):
            if os.path.islink(folder):
                self.commands.append(f"cp -P {folder} {self.path}{folder}")
            elif Path(folder).is_dir():
                self.bind(folder, folder)
        self.commands.append(f"cp -a /etc {self.path}/etc")
        self.bind("/usr", "/usr")
        self.folder("/sys")
        self.commands.append(f"mount --rbind /sys {self.path}/sys")  # cgroups are mounted below
        self.folder("/proc")
        self.commands.append(f"mount -t proc proc {self.path}/proc")
        self.folder("/run")
        self.folder("/var")
        self.commands.append(f"ln -s ../run {self.path}/var/run")
        self._tmpfs("/dev", "mode=755")
        for device in _DEVICES:
            self.bind(f"/dev/{device}", f"/dev/{device}", read_only=False)
        self.commands += [f"ln -s {to} {self.path}/dev/{name}" for name, to in _LINKS.items()]

    def take_checkout(self) -> None:
        """Shows this checkout and its environment, also where the images have them."""
        for target in (str(ROOT), "/opt/srmill"):
            self.bind(ROOT, target)
        for target in ("/opt/mlflow", *([] if BIN.is_relative_to(ROOT) else [str(BIN.parent)])):
            self.bind(BIN.parent, target)
        if not Path(sys.base_prefix).is_relative_to("/usr"):
            self.bind(sys.base_prefix, sys.base_prefix)

    def take_names(self, hosts: Mapping[str, str]) -> None:
        """Writes the users of the images, and the addresses of hosts."""
        users = [f"{user}:x:{number}:{number}::/:/bin/sh" for user, number in _USERS.items()]
        self.file("/etc/passwd", "\n".join(users) + "\n")
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in hosts.items())]
        self.file("/etc/hosts", "\n".join(lines) + "\n")
        # No name server answers, and none is waited for.
        self.commands.append(f"rm -f {self.path}/etc/resolv.conf")
        self.file("/etc/resolv.conf", "nameserver 127.0.0.1\n")

    def shared_memory(self, size: str) -> None:
        """Mounts /dev/shm.

        Args:
            size: as compose writes it, such as "2gb".
        """
        self._tmpfs("/dev/shm", f"mode=1777,size={size.removesuffix('b')}")

    def tmpfs(self, entry: str) -> None:
        """Mounts an entry of compose's `tmpfs`, and adds the options that an engine would."""
        target, _, given = entry.partition(":")
        options = [each for each in given.split(",") if each]
        if not any(each.startswith("mode=") for each in options):
            options.append("mode=1777")
        options = ["nosuid", "nodev", *([] if "exec" in options else ["noexec"]), *options]
        self._tmpfs(target, ",".join(each for each in options if each != "exec"))

    def bind(self, source: Path | str, target: str, *, read_only: bool = True) -> None:
        """Shows a file or a folder of this machine."""
        place = Path(f"{self.path}{target}")
        if Path(source).is_dir():
            self.commands.append(f"mkdir -p {place}")
        else:
            self.commands.append(f"mkdir -p {place.parent} && touch {place}")
        self.commands.append(f"mount --bind {source} {place}")
        if read_only:
            self.commands.append(f"mount -o remount,ro,bind {place}")

    def volume(self, name: str, target: str, user: str) -> None:
        """Makes a new volume. It belongs to the user, as it does in the images of the services."""
        data = self.path.parent / name
        data.mkdir()
        owner, _, group = user.partition(":")
        shutil.chown(data, int(owner), int(group))
        self.bind(data, target, read_only=False)

    def file(self, target: str, text: str) -> None:
        """Writes a file that may be run."""
        source = self.path.parent / Path(target).name
        source.write_text(text)
        source.chmod(0o755)
        self.commands.append(f"cp {source} {self.path}{target}")

    def program(self, name: str, capability: int) -> None:
        """Copies a program of this environment to `PROGRAMS`, with a file capability."""
        source = self.path.parent / f"{name}.program"
        shutil.copy(BIN / name, source)
        # As `setcap …=+ep` writes it: vfs_cap_data of revision 2 with the effective bit, see
        # linux/capability.h.
        os.setxattr(
            source, "security.capability", struct.pack("<5I", 0x0200_0001, 1 << capability, 0, 0, 0)
        )
        self.bind(source, f"{PROGRAMS}/{name}")

    def folder(self, target: str) -> None:
        self.commands.append(f"mkdir -p {self.path}{target}")

    def close(self, words: Sequence[str]) -> str:
        """Returns the script that makes the root, makes it read-only, and becomes a command."""
        self.commands.append(f"mount -o remount,ro,mode=755 {self.path}")
        return "\n".join([*self.commands, f"exec {' '.join(words)}"])

    def _tmpfs(self, target: str, options: str) -> None:
        self.folder(target)
        self.commands.append(f"mount -t tmpfs -o {options} tmpfs {self.path}{target}")
