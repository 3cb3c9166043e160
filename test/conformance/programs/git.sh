#!/bin/sh
# git's life of a repository. All dates are fixed, so every hash must be the same.
set -eu
export LC_ALL=C GIT_PROGRESS_DELAY=100000 HOME=/tmp GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
git config --global user.name tester
git config --global user.email tester@localhost
git config --global init.defaultBranch main
cd "$1"
git init repository
cd repository
mkdir $(seq -f 'd%g' 0 16)
awk 'BEGIN {
  for (i = 1; i <= 100; i++) {
    file = "d" i % 17 "/f" i
    for (line = i; line <= i + 100; line++) print line > file
    close(file)
  }
}'
ln -s d1 link
printf '#!/bin/sh\n' > run && chmod 755 run
git add .
git commit -q -m 'Add everything'
git rev-parse HEAD
git status --porcelain
git checkout -q -b side
for i in $(seq 1 17 100); do echo changed >> "d$((i % 17))/f$i"; done
git mv run d1/run
git commit -q -a -m 'Change some'
git checkout -q main
seq 10 > other
git add other
git commit -q -m 'Add other'
git merge --no-edit side
git rev-parse HEAD
git log --oneline --graph --stat | tail -n 40
git fsck --full --strict
git gc -q --prune=now
git fsck --full --strict
git count-objects -v | grep -v size
git clone -q --local . ../clone
git -C ../clone fsck --full
git clone -q "file://$PWD" ../cloned
git -C ../cloned rev-parse HEAD
git worktree add ../tree side
git -C ../tree status --porcelain
git stash list
echo more >> other
git stash
git stash pop
git reset -q --hard
git clean -ndx
git status --porcelain
git rev-list --all --objects | sort | sha256sum
