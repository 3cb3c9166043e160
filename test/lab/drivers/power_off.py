"""What a loss of power does to a VM and a mounted ext4: `power_off.py MOUNTPOINT PID`. The VM ends, and from now on nothing is written to its disk, not even what its
journal holds in memory; it has to be mounted anew."""

import fcntl, os, signal, struct, sys

# _IOR('X', 125, __u32) of the kernel's fs/ext4/ext4.h, which is XFS's, too; 2: without flushing the journal.
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2

fd = os.open(sys.argv[1], os.O_RDONLY)
# First, as a database that is told of a disk's errors ends by itself. At once, or the journal's timer may bring a file's new size to the disk and
# leave its end, which nobody will ever ask to be written, behind: that would be no loss of power, but a crash some seconds before one.
os.kill(int(sys.argv[2]), signal.SIGKILL)
fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
