#!/usr/bin/env python3
"""Starts a program and, on SIGHUP, a successor that takes over from it.

    hot-restarter.py ./start.sh

The script is run with RESTART_EPOCH in its environment and should end with something like
    exec ouro --config-path /etc/ouro.toml --restart-epoch "$RESTART_EPOCH"

Signals to this process:
    HUP        start the script again with the next epoch; the two processes hand over by themselves
    TERM, INT  stop: TERM to all processes, KILL to those that are left after the grace period
    USR1       passed on to all processes (log files are opened again)

A process that serves is never stopped because its successor failed: if the newest process ends and an older one still
lives, that one goes on, and the next HUP uses the epoch that follows its own. When no process is left, this one ends
with the status of the last.
"""

import argparse
import os
import signal
import sys
import time

SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD}
GRACE_VARIABLE = "HOT_RESTARTER_GRACE_S"
GRACE_S = 30.0
# Statuses of shells for a program that cannot be started, and for one that a signal ended.
CANNOT_START = 127
SIGNALED = 128


def log(text):
    """One line for the operator."""
    print(f"hot-restarter: {text}", file=sys.stderr, flush=True)


class Child:
    """A process that was started here."""

    def __init__(self, pid, epoch):
        self.pid = pid
        self.epoch = epoch

    def __str__(self):
        return f"epoch {self.epoch} (process {self.pid})"

    def send(self, number):
        """Sends a signal; the process cannot be another one, because only this program waits for it."""
        try:
            os.kill(self.pid, number)
        except OSError as error:
            log(f"{self} does not get signal {number}: {error}")


class Restarter:
    """The living processes, oldest first, and what to do with them."""

    def __init__(self, command, grace_s):
        self.command = command
        self.grace_s = grace_s
        self.children = []
        self.status = 0

    def run(self):
        """Until no process is left, or until told to stop; returns the exit status."""
        # Blocked signals wait for sigwait(), so there is no moment at which one gets lost or comes in between.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.start(0)
        while self.children:
            number = signal.sigwait(SIGNALS)
            if number in (signal.SIGTERM, signal.SIGINT):
                log(f"{signal.Signals(number).name}: stopping")
                return self.stop()
            # First of all, so that a successor gets the epoch that follows a process that really lives.
            self.reap()
            if number == signal.SIGHUP and self.children:
                log("HUP: restarting")
                self.start(self.children[-1].epoch + 1)
            elif number == signal.SIGUSR1:
                for child in self.children:
                    child.send(signal.SIGUSR1)
        log(f"no process is left, ending with status {self.status}")
        return self.status

    def start(self, epoch):
        """Starts the command with this epoch."""
        try:
            pid = os.fork()
        except OSError as error:
            log(f"epoch {epoch} cannot be started: {error}")
            self.status = CANNOT_START
            return
        if pid == 0:
            self.become_command(epoch)
        child = Child(pid, epoch)
        self.children.append(child)
        log(f"{child} started")

    def become_command(self, epoch):
        """In the new process: turns into the command. Does not return."""
        try:
            # Python ignores this one, and what is ignored or blocked stays so over an exec.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.environ["RESTART_EPOCH"] = str(epoch)
            os.execvp(self.command[0], self.command)
        except OSError as error:
            log(f"{self.command[0]} cannot be run: {error}")
        finally:
            os._exit(CANNOT_START)

    def reap(self):
        """Takes note of all processes that have ended."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # As the first process of a container this one also inherits those whose parent is gone.
            for child in [child for child in self.children if child.pid == pid]:
                self.ended(child, wait_status)

    def ended(self, child, wait_status):
        """A process has ended."""
        was_newest = child is self.children[-1]
        self.children.remove(child)
        if os.WIFSIGNALED(wait_status):
            self.status = SIGNALED + os.WTERMSIG(wait_status)
            how = f"was ended by signal {os.WTERMSIG(wait_status)}"
        else:
            self.status = os.WEXITSTATUS(wait_status)
            how = f"ended with status {self.status}"
        log(f"{child} {how}")
        if was_newest and self.children:
            log(f"{self.children[-1]} goes on in its place")

    def stop(self):
        """Ends all processes; returns the exit status: 0 if none had to be killed."""
        for child in self.children:
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        self.reap()
        while self.children:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return self.kill()
            # Whatever comes, there is nothing to do but to look who is left. HUP and USR1 mean nothing any more.
            signal.sigtimedwait({signal.SIGCHLD}, left_s)
            self.reap()
        log("all processes have ended")
        return 0

    def kill(self):
        """Ends what did not end by itself."""
        for child in self.children:
            log(f"{child} has not ended within {self.grace_s:g} s: killing it")
            child.send(signal.SIGKILL)
        while self.children:
            signal.sigtimedwait({signal.SIGCHLD}, 1.0)
            self.reap()
        return 1


def seconds(text):
    """A duration for the command line."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=seconds,
        default=os.environ.get(GRACE_VARIABLE, str(GRACE_S)),
        help=f"from TERM to KILL when stopping (${GRACE_VARIABLE}, otherwise {GRACE_S:g})",
    )
    parser.add_argument("script", help="what to run; found through PATH if it has no slash")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the script")
    options = parser.parse_args()
    # A signal whose default is to be ignored would not wake sigwait() everywhere.
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return Restarter([options.script, *options.arguments], options.grace).run()


if __name__ == "__main__":
    sys.exit(main())
