// What a lab is doing that is about to be given up: whether the lab, a virtual machine in it, or a command stands still.

/** How long it has to say so. */
const LIMIT_MS = 20_000;

/** The threads that run or wait in a VMM, and how often its guests have exited: twice, to see what moves. */
const INSIDE = `
for round in 1 2; do
  cat /proc/uptime /proc/loadavg
  for process in $(grep -ls clearvm /proc/[0-9]*/comm); do
    for task in \${process%/comm}/task/*; do
      echo $task $(cut -d ' ' -f 2,3,14,15 $task/stat) $(cat $task/wchan)
    done
  done
  grep . /sys/kernel/debug/kvm/exits /sys/kernel/debug/kvm/halt_exits /sys/kernel/debug/kvm/irq_injections
  test $round = 2 || sleep 2
done`;

/**
 * @param {import('./machine.mjs').Lab} lab
 * @param {import('node:net').Socket | null} monitor of QEMU, speaking QMP; null in a lab with the instruction clock
 * @returns {Promise<string>} lines for who looks into it; never rejects
 */
export async function lastLook(lab, monitor) {
  const inside = lab.run(['sh', '-c', INSIDE]).then(
    ({ stdout, stderr }) => `${stdout}${stderr}`,
    (error) => String(error),
  );
  const late = new Promise((resolve) => {
    setTimeout(() => resolve('The lab does not answer.'), LIMIT_MS);
  });
  const answer = await Promise.race([inside, late]);
  return monitor ? `${answer}\n${await ask(monitor, ['info registers', 'info lapic'])}` : answer;
}

/** QMP, docs/interop/qmp-spec of QEMU: a line for each greeting, command and answer. */
async function ask(monitor, questions) {
  let said = '';
  monitor.on('data', (bytes) => (said += bytes)).on('error', () => {});
  monitor.write('{"execute": "qmp_capabilities"}');
  for (const question of questions) {
    const command = { execute: 'human-monitor-command', arguments: { 'command-line': question } };
    monitor.write(JSON.stringify(command));
  }
  const answers = () => said.split('\n').filter((line) => line.startsWith('{"return": "'));
  for (let i = 0; i < 200 && answers().length < questions.length; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return answers()
    .map((line) => JSON.parse(line).return.replaceAll('\r', ''))
    .join('\n');
}
