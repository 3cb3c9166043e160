"""What a loss of power does to a mounted ext4: `power_off.py MOUNTPOINT`. From now on nothing is written to its disk, not even what its
journal holds in memory; it has to be mounted anew."""

import fcntl, os, struct, sys

# _IOR('X', 125, __u32) of the kernel's fs/ext4/ext4.h, which is XFS's, too; 2: without flushing the journal.
EXT4_IOC_SHUTDOWN = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH = 2

fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
