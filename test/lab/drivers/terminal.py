"""Runs a command with a terminal of its own, and types: `terminal.py SCRIPT COMMAND...`.

SCRIPT is JSON, a list of steps:
  ["wait", TEXT]         until the terminal has shown it since the last wait
  ["type", TEXT]
  ["size", ROWS, COLUMNS]
  ["signal", NAME]       to the command
  ["end"]                the command ends by itself
Prints JSON: the status (negative: the signal), the steps' output, and whether the terminal's settings are as before.
"""

import fcntl, json, os, pty, select, signal, struct, sys, termios

PATIENCE = 120  # seconds, for a step

steps, command = json.loads(sys.argv[1]), sys.argv[2:]
master, slave = pty.openpty()
before = termios.tcgetattr(slave)


def resize(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


resize(24, 80)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    os.close(master)
    os.execvp(command[0], command)

seen = b""
at = 0
status = None


def advance(seconds):
    """Reads what has come; False: nothing within that time."""
    global seen
    if not select.select([master], [], [], seconds)[0]:
        return False
    seen += os.read(master, 65536)
    return True


def ended():
    global status
    if status is None:
        got, code = os.waitpid(pid, os.WNOHANG)
        if got:
            status = os.waitstatus_to_exitcode(code)
    return status is not None


failure = None
for name, *arguments in steps:
    if name == "wait":
        text = arguments[0].encode()
        while failure is None and text not in seen[at:]:
            if not advance(PATIENCE):
                failure = "waited in vain for %r; since the last wait: %r" % (text, seen[at:])
        if failure is None:
            at = seen.index(text, at) + len(text)
    elif name == "type":
        os.write(master, arguments[0].encode())
    elif name == "size":
        resize(*arguments)
    elif name == "signal":
        os.kill(pid, getattr(signal, arguments[0]))
    elif name == "end":
        for _ in range(PATIENCE * 10):
            if ended():
                break
            advance(0.1)
        while advance(0):
            pass
        if not ended():
            failure = "it does not end"
    if failure:
        break

restored = termios.tcgetattr(slave) == before
if not ended():
    os.kill(pid, signal.SIGKILL)
print(json.dumps({"status": status, "failure": failure, "restored": restored, "output": seen.decode(errors="replace")}))
