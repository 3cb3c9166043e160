#!/bin/sh
# What a file system does, as text: run as root in an empty directory of a local file system and in one served over 9P;
# the output must be the same. Covers what v9fs asks its server for, by way of ordinary programs.
set -u
cd "$1" || exit 1
umask 022
say() { echo "== $*"; }
# The exit status and the reason that a command gave, without its name or paths.
try() { message=$("$@" 2>&1); echo "$? ${message##*: }"; }
attributes() { stat -c '%N %F %a %u %g %h' "$@"; }
as_user() { setpriv --reuid=1000 --regid=1000 --clear-groups sh -c "$1" 2>&1; }

say creation, modes, owners
echo text > file; mkdir dir; mkfifo fifo; ln -s file link; mknod null c 1 3; mknod block b 7 300
(umask 0; mkdir -m 1777 open; touch zero; chmod 6750 zero)
attributes file dir fifo link open zero null
stat -c '%t %T' null block
chown 11:22 file; chown -h 33:44 link; chgrp 5 dir; chmod 2770 dir
attributes file link dir
mkdir dir/inherits; touch dir/inherits/group; attributes dir/inherits dir/inherits/group
chmod 4755 file; chown 12 file; attributes file
as_user 'cd open && echo mine > mine && mkdir sub && ln -s x y && chmod 400 mine'
attributes open/mine open/sub open/y

say permissions
as_user 'cat open/mine; echo no >> file'; as_user 'touch dir/x'; as_user 'rm -f zero'
as_user 'chmod 777 file'; as_user 'chown 1000 file'; as_user 'mknod open/c c 1 3'
touch open/roots; as_user 'rm -f open/roots'
chmod 6777 zero; as_user 'echo x >> zero'; attributes zero
chmod 6777 zero; as_user ': > zero'; attributes zero

say names
try mkdir "$(printf %0255d 1)"; try mkdir "$(printf %0256d 1)"
try mkdir dir; try rmdir dir; try rm dir; try ls nothing; try cat file/x; try ln -s "" empty
mkdir -p deep/a/b/c/d/e; ls -R deep; try rmdir deep/a; rm -r deep
printf 'x' > "$(printf 'odd \n\377 name')"; ls -b | grep odd; rm odd*

say links
ln file hard; attributes file hard; rm file; cat hard; mv hard file
try ln dir hard; ln link second; attributes second; readlink second
ln -s "$(printf %04095d 1)" long; readlink long | wc -c; rm long second
ln -s loop loop; try cat loop; rm loop

say renames
echo a > a; echo b > b; mv a b; cat b; mkdir d1 d2; mv b d1; mv d1 d2; cat d2/d1/b
try mv d2 d2/d1/inside; mkdir full; touch full/x; try mv -T d2 full; try mv -T file d2
mkdir target; mv -T full target; ls target; rm -r d2 target

say open files without a name
exec 3<> lives; echo before >&3; rm lives; echo after >&3; cat /proc/self/fd/3
stat -L -c '%h %s' /proc/self/fd/3; chmod 600 /proc/self/fd/3; stat -L -c %a /proc/self/fd/3
truncate -s 3 /proc/self/fd/3; cat /proc/self/fd/3; echo; exec 3>&-
mkdir gone; (cd gone && rmdir ../gone && try touch x)

say contents
head -c 3000000 /dev/zero | tr '\0' 'q' > big; cksum < big
printf MIDDLE | dd of=big bs=1 seek=1234567 conv=notrunc status=none; cksum < big
truncate -s 5000000 big; stat -c %s big; cksum < big; truncate -s 10 big; cat big; echo
dd if=/dev/zero of=sparse bs=1 count=1 seek=8589934592 status=none; stat -c %s sparse; rm sparse
for writer in 1 2 3 4; do (for i in 1 2 3 4 5; do echo "$writer" >> log; done) & done; wait
sort log | uniq -c; rm log big

# Whole seconds after 1970: v9fs up to 6.12 keeps no others, whatever its server does.
say times
touch -d '2001-02-03 04:05:06 UTC' file; TZ=UTC stat -c '%x %y' file
touch -h -d '1999-01-01 UTC' link; TZ=UTC stat -c %y link; touch -a -d '2010-01-01 UTC' file
TZ=UTC stat -c '%x %y' file

say attributes
setfattr -n trusted.one -v first file; setfattr -n trusted.two -v 0x000102 file
getfattr -d -m trusted file; setfattr -x trusted.one file; getfattr -d -m trusted file
setfattr -n trusted.dir -v d dir; getfattr -d -m trusted dir
try setfattr -x trusted.nothing file; try getfattr -n trusted.nothing file

say directories
mkdir many; (cd many && seq 2000 | xargs touch && ls | wc -l && ls | sort -n | cksum)
(cd many && find . -type f -exec rm {} + && ls -A | wc -l); rmdir many

say locks
flock file sh -c 'flock -n file echo taken twice || echo locked'; flock -n file echo free again
flock -s file flock -s -n file echo shared; flock dir echo directory

say devices
echo swallowed > null && cat null; (echo through > fifo &) ; cat fifo
find . | sort | head -50
rm -rf ./* && ls -A
