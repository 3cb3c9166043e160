#!/usr/bin/perl
# What Perl's own tests of io/, op/ and lib/ do with the system: processes, pipes, sockets, files, signals, locks.
use strict;
use warnings;
use Fcntl qw(:DEFAULT :flock :seek :mode);
use File::Copy qw(copy move);
use File::Find;
use File::Path qw(make_path remove_tree);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX qw(:sys_wait_h mkfifo setsid);
use Socket;
use Time::HiRes qw(usleep);

$| = 1;
my $test = 0;
sub ok { my ($good, $name) = @_; $test++; print $good ? 'ok' : 'not ok', " $test - $name\n" }
my $folder = shift;
mkdir "$folder/perl" or die "mkdir: $!";
chdir "$folder/perl" or die "chdir: $!";

# Processes and pipes.
pipe(my $r, my $w) or die;
my $pid = fork // die;
if (!$pid) { close $r; print $w "from child $_\n" for 1 .. 1000; close $w; POSIX::_exit(7) }
close $w;
my @lines = <$r>;
waitpid $pid, 0;
ok(@lines == 1000 && $lines[999] eq "from child 1000\n", 'a pipe carries a thousand lines');
ok($? >> 8 == 7, 'the exit status comes back');
my @kids = map { my $k = fork // die; POSIX::_exit($_) if !$k; $k } 1 .. 50;
my %status = map { waitpid($_, 0); ($_ => $? >> 8) } @kids;
ok(join(',', map { $status{$_} } @kids) eq join(',', 1 .. 50), 'fifty children, fifty statuses');
open(my $sort, '|-', 'sort -rn > sorted') or die;
print $sort "$_\n" for 1 .. 5000;
ok(close($sort), 'a pipe to sort');
open(my $in, '<', 'sorted') or die;
chomp(my @sorted = <$in>);
ok(join(',', @sorted) eq join(',', reverse 1 .. 5000), 'sort has sorted');
ok(`echo out; exit 3` eq "out\n" && $? >> 8 == 3, 'backticks');
ok(system('kill -9 $$') == 9, 'a signal is in the status');

# Signals.
my $got = 0;
local $SIG{USR1} = sub { $got++ };
kill USR1 => $$ for 1 .. 5;
ok($got >= 1, 'signals arrive');
eval { local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; select undef, undef, undef, 30; alarm 0 };
ok($@ eq "alarm\n", 'alarm interrupts select');

# Sockets.
my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
my $port = $server->sockport;
if (!($pid = fork)) {
  my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or POSIX::_exit(1);
  print $c 'x' x 1_000_000;
  $c->shutdown(1);
  my $answer = <$c>;
  POSIX::_exit($answer eq "1000000\n" ? 0 : 2);
}
my $connection = $server->accept;
my $count = 0;
while (sysread $connection, my $buffer, 65536) { $count += length $buffer }
print $connection "$count\n";
close $connection;
waitpid $pid, 0;
ok($count == 1_000_000 && $? == 0, 'a megabyte over TCP, and an answer');
my $listener = IO::Socket::UNIX->new(Local => 'socket', Listen => 1) or die "unix: $!";
ok(-S 'socket', 'a socket in the file system');
if (!($pid = fork)) { my $c = IO::Socket::UNIX->new(Peer => 'socket'); print $c "hello\n"; POSIX::_exit(0) }
my $peer = $listener->accept;
ok(scalar(<$peer>) eq "hello\n", 'a line over it');
waitpid $pid, 0;
ok(unlink('socket') == 1, 'it can be removed');
socketpair(my $one, my $two, AF_UNIX, SOCK_DGRAM, 0) or die;
send $one, 'datagram', 0;
recv $two, my $datagram, 100, 0;
ok($datagram eq 'datagram', 'socketpair');
mkfifo('fifo', 0600) or die;
if (!($pid = fork)) { open my $f, '>', 'fifo'; print $f "through\n"; close $f; POSIX::_exit(0) }
open(my $fifo, '<', 'fifo') or die;
ok(<$fifo> eq "through\n", 'a FIFO');
waitpid $pid, 0;

# Files.
sysopen(my $file, 'file', O_RDWR | O_CREAT | O_EXCL, 0640) or die;
ok(!sysopen(my $again, 'file', O_RDWR | O_CREAT | O_EXCL), "O_EXCL refuses: $!");
syswrite $file, 'x' x 100_000;
truncate $file, 50_000;
ok(-s 'file' == 50_000, 'truncate');
sysseek $file, 1 << 32, SEEK_SET;
syswrite $file, 'end';
ok(-s 'file' == (1 << 32) + 3 && (stat 'file')[12] < 1000, 'a sparse file beyond 4 GiB');
utime 1e9, 1.1e9, 'file';
ok((stat 'file')[8] == 1e9 && (stat 'file')[9] == 1.1e9, 'utime');
chmod 04751, 'file';
ok(S_IMODE((stat 'file')[2]) == 04751, 'chmod');
chown 1000, 1001, 'file';
ok(join(':', (stat 'file')[4, 5]) eq '1000:1001' && S_IMODE((stat 'file')[2]) == 0751, 'chown drops set-user-id');
link 'file', 'linked';
ok((stat 'file')[3] == 2 && (stat 'file')[1] == (stat 'linked')[1], 'a hard link');
unlink 'file', 'linked';
ok((stat $file)[3] == 0 && -s $file == (1 << 32) + 3, 'a file without a name can be asked for its state');
sysseek $file, 1 << 32, SEEK_SET;
sysread $file, my $end, 10;
ok($end eq 'end', 'and read');
close $file;
symlink 'nowhere', 'dangling';
ok(-l 'dangling' && !-e 'dangling' && readlink('dangling') eq 'nowhere', 'a dangling link');
my $long = 'n' x 255;
ok(open(my $l, '>', $long) && -e $long, 'a name of 255 bytes');
ok(!open($l, '>', $long . 'n'), "a longer one: $!");
ok(open($l, '>', "\x{e4}\xff\n \"'") && grep({ $_ eq "\x{e4}\xff\n \"'" } do { opendir my $d, '.'; readdir $d }), 'a name of any bytes');

# Locks: what a child may not get.
open(my $lock, '>', 'lock') or die;
flock $lock, LOCK_EX or die;
if (!($pid = fork)) { open my $l2, '>', 'lock'; POSIX::_exit(flock($l2, LOCK_EX | LOCK_NB) ? 1 : $!{EWOULDBLOCK} ? 0 : 2) }
waitpid $pid, 0;
ok($? == 0, 'flock excludes');
flock $lock, LOCK_UN;
sub lock_bytes { # struct flock of x86-64
  my ($handle, $start, $length) = @_;
  my $range = pack('s s x![q] q q l x![q]', F_WRLCK, SEEK_SET, $start, $length, 0);
  return fcntl($handle, F_SETLK, $range);
}
ok(lock_bytes($lock, 10, 10), 'a record lock');
if (!($pid = fork)) {
  open my $l2, '+<', 'lock';
  POSIX::_exit(!lock_bytes($l2, 15, 1) && lock_bytes($l2, 20, 1) ? 0 : 1);
}
waitpid $pid, 0;
ok($? == 0, 'record locks exclude, byte by byte');

# Appending by many at once.
@kids = map {
  my ($n, $k) = ($_, fork // die);
  if (!$k) {
    sysopen my $a, 'appended', O_WRONLY | O_APPEND | O_CREAT, 0600;
    syswrite $a, sprintf("%d %03d\n", $n, $_) for 1 .. 200;
    POSIX::_exit(0);
  }
  $k
} 1 .. 4;
waitpid $_, 0 for @kids;
open(my $a, '<', 'appended') or die;
my %seen = map { $_ => 1 } <$a>;
ok(keys %seen == 800, 'four append, and nothing is lost');

# Trees.
make_path(map { "tree/a$_/b/c" } 1 .. 30);
for my $n (1 .. 300) { open my $f, '>', sprintf('tree/a%d/b/f%d', $n % 30 + 1, $n) or die; print $f $n }
my ($files, $folders) = (0, 0);
find({ no_chdir => 1, wanted => sub { -d $_ ? $folders++ : $files++ } }, 'tree');
ok($files == 300 && $folders == 91, "find meets $files files and $folders folders");
ok(rename('tree/a1', 'tree/a2/moved') && -d 'tree/a2/moved/b', 'a folder moves');
ok(!rename('tree', 'tree/a2/inside'), "but not into itself: $!");
ok(!rmdir('tree/a2'), "a full one stays: $!");
copy('sorted', 'tree/copy');
ok(-s 'tree/copy' == -s 'sorted', 'copy');
opendir(my $dir, 'tree') or die;
my $left = 0;
while (defined(my $name = readdir $dir)) { next if $name =~ /^\./; $left++; remove_tree("tree/$name") }
ok($left == 30 && rmdir('tree'), 'removed while it is read');
chdir $folder;
remove_tree("$folder/perl");
ok(!-e "$folder/perl", 'nothing is left');
print "1..$test\n";
