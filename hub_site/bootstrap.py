"""Make .venv with the pinned packages: `python3 hub_site/bootstrap.py [--dev]`.

Standard library only, and written so that any Python, even 2.7, reads it far enough to say what is
wrong. Once the packages are there it does nothing and needs no network.
"""

from __future__ import print_function

import glob
import hashlib
import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
GIGABYTE = 1000**3
# The environment with torch for CPUs measures 1.8 GB; with CUDA it is reckoned, not measured. pip
# needs room to unpack beside what stays.
SMALL_INSTALL, CUDA_INSTALL = 3 * GIGABYTE, 9 * GIGABYTE


class Trap(Exception):
    """Something about this machine stops us; the message is the one line to print."""


def main(arguments):
    requirements = "requirements-dev.txt" if "--dev" in arguments else "requirements.txt"
    try:
        if sys.platform == "win32":
            raise Trap(
                "Windows cannot run the site itself. Open a WSL terminal (Ubuntu) and start there."
            )
        if installed(requirements):
            return 0
        find_a_fitting_python()
        with only_one_at_a_time():
            if not installed(requirements):
                check_disk()
                make_environment()
                install(requirements)
    except Trap as trap:
        print("\nCannot set up: %s" % trap, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on from here.", file=sys.stderr)
        return 130
    return 0


# --- the Python --------------------------------------------------------------------------------


def fits(version):
    return OLDEST <= tuple(version[:2]) <= NEWEST


def find_a_fitting_python():
    """Go on with this Python, or start again with one that fits."""
    if fits(sys.version_info):
        return
    here = "%d.%d" % tuple(sys.version_info[:2])
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = "python3.%d" % minor
        if version_of(name) == (3, minor):
            print("Python %s does not fit, using %s." % (here, name))
            sys.stdout.flush()
            os.execvp(name, [name, os.path.abspath(__file__)] + sys.argv[1:])
    raise Trap(
        "this is Python %s, and the site needs 3.11, 3.12 or 3.13, none of which is on the PATH. "
        "Install one (Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install "
        "python@3.13) and run: make run PYTHON=/path/to/python3.13" % here
    )


def version_of(python):
    """(3, 12), or None when there is no such Python or it does not start."""
    code = "import sys; print('%d %d' % tuple(sys.version_info[:2]))"
    try:
        process = subprocess.Popen(
            [python, "-I", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out = process.communicate()[0]
    except OSError:
        return None
    numbers = out.decode("ascii", "replace").split()
    return (int(numbers[0]), int(numbers[1])) if process.returncode == 0 else None


# --- the environment ---------------------------------------------------------------------------


def make_environment():
    found = version_of(PYTHON)
    if found and fits(found) and has_pip():
        return
    if os.path.isdir(VENV):
        print("Making .venv anew: its Python is missing, unfinished or of an unfit version.")
        shutil.rmtree(VENV)
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        raise Trap(
            "this Python has no venv module. Debian and Ubuntu keep it in a package of its own: "
            "apt install python3.%d-venv" % sys.version_info[1]
        )
    print("Making .venv with Python %d.%d ..." % tuple(sys.version_info[:2]))
    sys.stdout.flush()
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Trap("the environment %s cannot be made: %s" % (VENV, error))


def has_pip():
    with open(os.devnull, "w") as nowhere:
        return (
            subprocess.call([PYTHON, "-m", "pip", "--version"], stdout=nowhere, stderr=nowhere) == 0
        )


def install(requirements):
    print("Installing what %s lists. The first time this downloads torch ..." % requirements)
    sys.stdout.flush()
    forget_stamps()
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary"]
    environment = dict(os.environ)
    environment["PIP_USER"] = environment["PIP_REQUIRE_VIRTUALENV"] = "0"
    if not environment.get("HOME"):
        environment["PIP_NO_CACHE_DIR"] = "1"
    process = subprocess.Popen(
        command + ["-r", requirements], cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    complaints = []
    for line in iter(process.stderr.readline, b""):
        text = line.decode("utf-8", "replace")
        complaints.append(text)
        sys.stderr.write(text)
    if process.wait() != 0:
        raise Trap(reason("".join(complaints)))
    write_stamp(requirements)


def reason(complaints):
    """One line for what pip said in many."""
    low = complaints.lower()
    if "no space left on device" in low or "disk quota exceeded" in low:
        return (
            "the disk is full. An install with torch for CPUs needs about 3 GB, with CUDA about "
            "9 GB; README shows how to choose the build for CPUs."
        )
    offline = ("name resolution", "failed to establish a new connection", "connection refused")
    if any(words in low for words in offline + ("network is unreachable", "timed out")):
        return "the package index cannot be reached. Check the network (or pip's proxy and index)."
    for start in ("no matching distribution found for ", "failed building wheel for "):
        if start in low:
            package = low.split(start, 1)[1].split()[0]
            return (
                "there is no ready-made package of %s for this machine (%s, Python %d.%d). Use "
                "Linux with glibc 2.28 or newer, or macOS 14 or newer, on x86-64 or ARM64."
                % ((package, describe_machine()) + tuple(sys.version_info[:2]))
            )
    if "permission denied" in low:
        return "a folder is not writable for you; pip's message stands above."
    return "pip failed; its message stands above. Run the same command to go on."


def describe_machine():
    import platform

    return "%s %s" % (platform.system(), platform.machine())


# --- stamps: an interrupted install leaves none --------------------------------------------------


def stamp_path(requirements):
    return os.path.join(VENV, "installed-" + requirements)


def digest(requirements):
    text = hashlib.sha256()
    for name in sorted({"requirements.txt", requirements}):
        with open(os.path.join(ROOT, name), "rb") as file:
            text.update(file.read())
    return text.hexdigest()


def installed(requirements):
    try:
        with open(stamp_path(requirements)) as stamp:
            return stamp.read() == digest(requirements) and os.access(PYTHON, os.X_OK)
    except (OSError, IOError):
        return False


def write_stamp(requirements):
    for name in {"requirements.txt", requirements}:
        draft = stamp_path(name) + ".new"
        with open(draft, "w") as stamp:
            stamp.write(digest(name))
        os.rename(draft, stamp_path(name))


def forget_stamps():
    for path in glob.glob(stamp_path("*")):
        os.remove(path)


# --- the machine -------------------------------------------------------------------------------


def check_disk():
    free = shutil.disk_usage(ROOT).free
    if free < SMALL_INSTALL:
        raise Trap(
            "too little disk: %.1f GB free in %s, and the install needs %d GB (9 GB when pip takes "
            "torch with CUDA)." % (free / GIGABYTE, ROOT, SMALL_INSTALL / GIGABYTE)
        )
    if sys.platform.startswith("linux") and free < CUDA_INSTALL and not cpu_build_chosen():
        print(
            "Only %.1f GB free. If pip takes torch with CUDA it needs about 9 GB; README shows how "
            "to choose the build for CPUs." % (free / GIGABYTE)
        )


def cpu_build_chosen():
    return any("/cpu" in value for name, value in os.environ.items() if name.startswith("PIP_"))


class only_one_at_a_time(object):
    """Two first starts in one checkout must not write one .venv together."""

    def __enter__(self):
        import fcntl

        self.file = open(os.path.join(ROOT, "requirements.txt"))
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *error):
        self.file.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
