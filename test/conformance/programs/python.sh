#!/bin/bash
# CPython's own tests. Prints one line a test: its outcome, and its name.
set -eu
folder=$1
shift
cd /tmp
status=0
python3 -m test -j"$(nproc)" --timeout 600 --tempdir "$folder" --junit-xml "$folder/results.xml" "$@" > "$folder/log" 2>&1 || status=$?
cat "$folder/log" >&2
python3 - "$folder/results.xml" << 'END'
import sys
import xml.etree.ElementTree as tree
for case in tree.parse(sys.argv[1]).iter('testcase'):
    kinds = {child.tag for child in case}
    outcome = 'failed' if kinds & {'error', 'failure'} else 'skipped' if 'skipped' in kinds else 'passed'
    print(outcome, case.get('name').split('\n')[0])
END
exit $status
