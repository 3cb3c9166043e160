#!/usr/bin/python3
"""What programs ask of files beyond reading and writing; each line says what came of it."""
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import subprocess
import sys

os.chdir(sys.argv[1])
os.mkdir('files')
os.chdir('files')
os.umask(0o022)
libc = ctypes.CDLL(None, use_errno=True)


def say(name, action):
    try:
        result = action()
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(f'{name}: {result}', flush=True)


def child(action):
    """Runs it in a child, and waits for that. Returns its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = action() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(name, data):
    with open(name, 'wb') as file:
        file.write(data)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, (done.stdout + done.stderr).strip()


# Mappings.
def shared_mapping():
    write('mapped', bytes(20000))
    with open('mapped', 'r+b') as file, mmap.mmap(file.fileno(), 20000) as here:
        def there():
            with open('mapped', 'r+b') as other, mmap.mmap(other.fileno(), 20000) as view:
                view[9000:9005] = b'child'
                os.pwrite(other.fileno(), b'written', 15000)
        child(there)
        here[0:6] = b'parent'
        here.flush()
        by_mapping = here[0:6], here[9000:9005], here[15000:15007]
        return by_mapping == (os.pread(file.fileno(), 6, 0), os.pread(file.fileno(), 5, 9000), os.pread(file.fileno(), 7, 15000))


def mapping_of_a_file_without_a_name():
    with open('mapped', 'r+b') as file, mmap.mmap(file.fileno(), 20000) as here:
        os.unlink('mapped')
        here[100:104] = b'gone'
        here.flush()
        return os.pread(file.fileno(), 4, 100)


def mapping_past_the_end():
    write('short', b'x' * 5000)
    with open('short', 'r+b') as file, mmap.mmap(file.fileno(), 5000) as here:
        os.truncate('short', 100)
        return bytes(here[98:102]), child(lambda: here[4999])


say('a shared mapping, by two processes and write(2)', shared_mapping)
say('a mapping of a file without a name', mapping_of_a_file_without_a_name)
say('a mapping whose file is cut: the rest of the page, and a page that is gone', mapping_past_the_end)


# Appending.
def append(flags):
    def writer(n):
        fd = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags)
        for i in range(50):
            os.write(fd, b'%d %04d\n' % (n, i))
    pids = []
    for n in range(3):
        pid = os.fork()
        if pid == 0:
            writer(n)
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    with open('log') as file:
        lines = file.read().splitlines()
    os.unlink('log')
    return len(lines), len(set(lines))


def append_directly():
    """The beginning is in the page cache only when O_DIRECT appends to it."""
    write('direct', b'a' * 4096)
    fd = os.open('direct', os.O_WRONLY | os.O_APPEND | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    page.write(b'b' * 4096)
    os.write(fd, page)
    os.close(fd)
    with open('direct', 'rb') as file:
        return file.read() == b'a' * 4096 + b'b' * 4096


say('three append', lambda: append(0))
say('three append with O_SYNC', lambda: append(os.O_SYNC))
say('O_APPEND and O_DIRECT', append_directly)


# Locks.
def record_locks():
    with open('locked', 'w+') as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 10)

        def other():
            with open('locked', 'r+') as again:
                fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 20)
                fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
                try:
                    fcntl.lockf(again, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 19)
                except OSError as error:
                    return 1 if error.errno in (errno.EAGAIN, errno.EACCES) else 2
        before = child(other)
        fcntl.lockf(file, fcntl.LOCK_UN)
        return before, child(other)


def waiting_for_a_lock():
    with open('locked', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid = os.fork()
        if pid == 0:
            with open('locked') as again:
                fcntl.flock(again, fcntl.LOCK_SH)
            os._exit(0)
        with open('locked') as other:
            try:
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
        fcntl.flock(file, fcntl.LOCK_UN)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


say('record locks, held and let go', record_locks)
say('flock waits', waiting_for_a_lock)


# Names and what is behind them.
def rename_over_an_open_file():
    write('old', b'old')
    write('new', b'new')
    with open('old', 'rb') as file:
        os.rename('new', 'old')
        with open('old', 'rb') as renamed:
            return file.read(), renamed.read(), os.fstat(file.fileno()).st_nlink


def rename2(flags):
    def action():
        write('one', b'1')
        write('two', b'2')
        if libc.renameat2(-100, b'one', -100, b'two', flags) != 0:
            raise OSError(ctypes.get_errno(), '')
        with open('one') as file:
            return file.read()
    return action


def unlink_while_listing():
    os.mkdir('full')
    for i in range(400):
        write(f'full/{i}', b'')
    seen = 0
    with os.scandir('full') as entries:
        for entry in entries:
            os.unlink(entry.path)
            seen += 1
    os.rmdir('full')
    return seen


def hard_links():
    write('first', b'')
    for i in range(20):
        os.link('first', f'link{i}')
    counts = [os.stat('first').st_nlink]
    for i in range(10):
        os.unlink(f'link{i}')
    counts.append(os.stat('link15').st_nlink)
    os.rename('link15', 'link16')
    counts.append(os.stat('first').st_nlink)
    return counts


def links_of_folders():
    os.makedirs('parent/a/b')
    os.mkdir('parent/c')
    os.rmdir('parent/a/b')
    return os.stat('parent').st_nlink, os.stat('parent/a').st_nlink


def temporary_file():
    fd = os.open('.', os.O_TMPFILE | os.O_RDWR)
    return os.write(fd, b'x'), os.fstat(fd).st_nlink


say('rename over an open file', rename_over_an_open_file)
say('RENAME_NOREPLACE', rename2(1))
say('RENAME_EXCHANGE', rename2(2))
say('files removed while they are listed', unlink_while_listing)
say('hard links', hard_links)
say('links of folders', links_of_folders)
say('O_TMPFILE', temporary_file)


# Special files.
def unix_socket():
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind('socket')
        server.listen()
        os.rename('socket', 'moved')
        client.connect('moved')
        accepted = server.accept()[0]
        client.sendall(b'hello')
        return accepted.recv(10), oct(os.stat('moved').st_mode)


def fifo():
    os.mkfifo('fifo', 0o640)
    os.link('fifo', 'fifo2')
    reader = os.open('fifo', os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open('fifo2', os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b'through')
    return os.read(reader, 10), oct(os.stat('fifo').st_mode)


say('a socket, renamed', unix_socket)
say('a FIFO by two names', fifo)


# Times.
def times():
    write('times', b'')
    os.utime('times', ns=(1, 10**18 + 123456789))
    before = os.stat('times')
    with open('times', 'rb') as file:
        file.read()
    os.chmod('times', 0o600)
    after = os.stat('times')
    os.symlink('nowhere', 'symlink')
    os.utime('symlink', ns=(5, -5 * 10**9), follow_symlinks=False)
    return before.st_atime_ns, before.st_mtime_ns, after.st_mtime_ns, after.st_ctime_ns >= before.st_ctime_ns, os.lstat('symlink').st_mtime_ns


def writing_moves_times():
    os.utime('times', ns=(1, 1))
    with open('times', 'wb') as file:
        file.write(b'x')
    written = os.stat('times').st_mtime_ns > 1
    os.utime('.', ns=(1, 1))
    os.unlink('times')
    return written, os.stat('.').st_mtime_ns > 1


say('times', times)
say('writing and unlinking move them', writing_moves_times)
say('a birth time', lambda: run('stat', '-c', '%W', 'first')[1] != '0')


# Attributes.
def attributes():
    os.setxattr('first', 'user.one', b'1' * 1000)
    os.setxattr('first', 'user.two', b'')
    names = sorted(os.listxattr('first'))
    os.removexattr('first', 'user.two')
    return names, len(os.getxattr('link16', 'user.one')), os.listxattr('first')


say('user attributes', attributes)
say('one that exists', lambda: os.setxattr('first', 'user.one', b'', os.XATTR_CREATE))
say('one that does not', lambda: os.getxattr('first', 'user.none'))
say('a file capability', lambda: os.setxattr('first', 'security.capability', struct.pack('<5I', 0x02000000, 1 << 10, 0, 0, 0)))
say('goes with a write', lambda: write('first', b'x') or 'security.capability' in os.listxattr('first'))
say('an ACL', lambda: os.getxattr('first', 'system.posix_acl_access'))
say('an attribute of a link', lambda: os.setxattr('symlink', 'user.one', b'x', follow_symlinks=False))


# Space.
def sparse():
    with open('sparse', 'wb') as file:
        file.truncate(10 * 2**20)
        file.seek(5 * 2**20)
        file.write(b'data')
    return os.stat('sparse').st_size, os.stat('sparse').st_blocks < 1000


def seek_hole():
    fd = os.open('sparse', os.O_RDONLY)
    return os.lseek(fd, 0, os.SEEK_HOLE), os.lseek(fd, 0, os.SEEK_DATA)


def fallocate(mode):
    fd = os.open('allocated', os.O_RDWR | os.O_CREAT)
    if libc.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(100000)) != 0:
        raise OSError(ctypes.get_errno(), '')
    return os.fstat(fd).st_size


def posix_fallocate():
    fd = os.open('allocated', os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 300000)
    return os.fstat(fd).st_size


def copies():
    results = [run('cp', '--reflink=auto', '--sparse=always', 'sparse', 'copy'), run('cmp', 'sparse', 'copy')]
    with open('sparse', 'rb') as source, open('copied', 'wb') as target:
        while os.copy_file_range(source.fileno(), target.fileno(), 2**20):
            pass
    return results + [run('cmp', 'sparse', 'copied')], os.stat('copy').st_size


def free_space():
    status = os.statvfs('.')
    fields = run('df', '-P', '.')[1].splitlines()[1].split()
    return status.f_bavail > 0, status.f_blocks * status.f_frsize // 1024 == int(fields[1]), status.f_namemax


say('a sparse file', sparse)
say('SEEK_HOLE and SEEK_DATA', seek_hole)
say('fallocate', lambda: fallocate(0))
say('punching a hole', lambda: fallocate(3))
say('posix_fallocate', posix_fallocate)
say('copies', copies)
say('a reflink', lambda: run('cp', '--reflink=always', 'sparse', 'reflink')[0])
say('free space', free_space)

os.chdir('..')
print(run('rm', '-r', 'files'), os.listdir('.'))
