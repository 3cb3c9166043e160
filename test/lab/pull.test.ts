// `clearvm run` of an image that only a registry has: in the lab, where the container runs.
import { afterAll, beforeAll, expect, test } from 'vitest';

import { IMAGE, startHost, type Host } from './support.js';

let host: Host;
beforeAll(async () => {
  host = await startHost();
});
afterAll(() => host?.close());

const NAME = '127.0.0.1:5000/app:1';

test('run pulls what is missing, once, and says so on stderr; --pull says when', async () => {
  const { status, stdout, stderr } = await host.shell(`
    set -e
    cat > /tmp/registry.yml <<END
{"version": "0.1", "log": {"level": "error"}, "http": {"addr": "127.0.0.1:5000"},
 "storage": {"filesystem": {"rootdirectory": "/tmp/registry"}}}
END
    ip link set lo up
    docker-registry serve /tmp/registry.yml > /tmp/registry.log 2>&1 &
    registry=$!
    trap 'kill $registry' EXIT
    until (: < /dev/tcp/127.0.0.1/5000) 2> /dev/null; do sleep 0.1; done
    clearvm tag ${IMAGE} ${NAME}
    clearvm push -q ${NAME}
    clearvm rmi ${NAME} > /dev/null
    if clearvm run --rm --pull never ${NAME} true 2> /dev/null; then exit 1; fi
    clearvm run --rm ${NAME} echo first
    clearvm run --rm ${NAME} echo second
    clearvm run --rm --pull always -q ${NAME} echo third
    kill $registry; trap - EXIT
    clearvm run --rm ${NAME} echo fourth
    status=0; clearvm run --rm --pull always ${NAME} echo fifth 2> /tmp/refused || status=$?
    echo $status; grep -c 'cannot be reached' /tmp/refused`);
  expect(stderr).toMatch(
    new RegExp(
      `^Unable to find image '${NAME}' locally\n1: Pulling from app\n(\\w{12}: Already exists\n)+` +
        `Digest: sha256:\\w{64}\nStatus: Downloaded newer image for ${NAME}\n$`,
    ),
  );
  expect(stdout).toBe(`${NAME}\nfirst\nsecond\nthird\nfourth\n125\n1\n`);
  expect(status).toBe(0);
});
