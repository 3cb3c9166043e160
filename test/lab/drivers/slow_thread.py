"""Lets one thread of a process run for an instant every SECONDS only, ROUNDS times: `slow_thread.py TID SECONDS ROUNDS`.
Says "slow" when it begins. The other threads run on."""

import ctypes, os, sys, time

SEIZE, INTERRUPT, CONTINUE = 0x4206, 0x4207, 7  # ptrace(2)
ALL = 0x40000000  # __WALL

tid, seconds, rounds = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def call(request):
    if ptrace(request, tid, None, None) != 0:
        sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))


call(SEIZE)
for number in range(rounds):
    call(INTERRUPT)
    os.waitpid(tid, ALL)
    if number == 0:
        print("slow", flush=True)
    time.sleep(seconds)
    call(CONTINUE)
# The end of this process lets go of it.
