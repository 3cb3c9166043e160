#!/bin/bash
# tar reads a tree that is being removed. Which files it still meets is a race; what it may say about it is not.
set -eu
export LC_ALL=C
cd "$1"

make_tree() {
  mkdir tree
  for d in $(seq 5); do
    mkdir tree/$d
    for f in $(seq 20); do echo "$d $f" > tree/$d/$f; done
    ln tree/$d/1 tree/$d/hard
    ln -s 1 tree/$d/soft
  done
}

echo '== an archive of a tree at rest, and back'
make_tree
tar -cf rest.tar tree
mkdir copy
tar -xf rest.tar -C copy
diff -r --no-dereference tree copy/tree && echo same
tar -tf rest.tar | wc -l
tar -df rest.tar && echo 'tar finds no difference'
rm -r copy rest.tar

echo '== a file that is removed when half of it has been read'
head -c 8M /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 2> /dev/null > big
sha256sum < big
set +e
{ tar -cf - big 2> messages; echo "tar: $?" >> messages; } | { head -c 100000; rm big; cat; } > big.tar
set -e
cat messages
tar -xOf big.tar big | sha256sum
test ! -e big && echo 'removed'

echo '== a tree that is removed meanwhile'
rounds=2
for round in $(seq $rounds); do
  test -d tree || make_tree
  set +e
  tar -cf race.tar tree 2> messages &
  archiver=$!
  rm -r tree
  echo "rm: $?"
  wait $archiver
  status=$?
  set -e
  test $status -le 2 || echo "tar ended with $status"
  # What it may meet: files and directories that have gone, or changed, since it saw them.
  grep -vE 'No such file or directory|File removed before we read it|file changed as we read it|Exiting with failure status|some files differ' \
    messages || true
  test ! -e tree && echo 'the tree is gone'
  if test -s race.tar; then
    # tar pads what it could not read with zeroes; nothing else may be wrong.
    tar -tf race.tar > members
    mkdir out
    tar -xf race.tar -C out 2> /dev/null || true
    find out -type f -exec perl -0777 -ne '
      my ($d, $f) = $ARGV =~ m{(\d+)/(\w+)$};
      $f = 1 if $f eq "hard";
      print "wrong content in $ARGV\n" if tr/\0//dr ne "$d $f\n";' {} +
    rm -r out
  fi
done

echo '== --remove-files'
make_tree
tar -cf moved.tar --remove-files tree
ls
tar -tf moved.tar | wc -l
