/** clearvm events */
import type { EngineEvent } from '../engine/events.js';
import type { Command } from './command.js';
import type { OptionTable } from './options.js';
import { interspersed } from './parse-run.js';
import { renderTemplate, type Fields } from './template.js';
import { parseTime } from './time.js';

const options: OptionTable = {
  since: { type: 'string', value: 'TIME', describe: 'Begin there: a time, or an age such as 10m' },
  until: { type: 'string', value: 'TIME', describe: 'End there' },
  filter: {
    type: 'list',
    short: 'f',
    value: 'NAME=VALUE',
    describe: 'type, event, container, image, volume, label',
  },
  format: { type: 'string', value: 'json|TEMPLATE', describe: "json, or docker's: '{{.Action}}'" },
};

/** A line of docker's: time, type, what, of which, and its attributes in brackets, sorted. */
export function formatEvent({ time, type, action, id, attributes }: EngineEvent): string {
  const pairs = Object.keys(attributes)
    .sort()
    .map((name) => `${name}=${attributes[name]}`);
  return `${time} ${type} ${action} ${id}${pairs.length > 0 ? ` (${pairs.join(', ')})` : ''}`;
}

/** The event as docker's API has it; `timeNano` is text, for it is more than a number holds. */
export function eventFields({ time, type, action, id, attributes }: EngineEvent): Fields {
  const seconds = Math.floor(Date.parse(`${time.slice(0, 19)}Z`) / 1000);
  const nanoseconds = (/\.(\d{1,9})/.exec(time)?.[1] ?? '').padEnd(9, '0');
  const image = type === 'container' ? attributes['image'] : undefined;
  return {
    status: action,
    id,
    ...(image === undefined ? {} : { from: image }),
    Type: type,
    Action: action,
    Actor: { ID: id, Attributes: attributes },
    scope: 'local',
    time: seconds,
    timeNano: `${seconds}${nanoseconds}`,
  };
}

/** Its JSON, with `timeNano` as the number that it is. */
export function eventJson(event: EngineEvent): string {
  return JSON.stringify(eventFields(event)).replace(/"timeNano":"(\d+)"/, '"timeNano":$1');
}

export const command: Command = {
  usage: 'events [OPTIONS]',
  summary: 'Show what happens to containers, images and volumes, as it happens',
  options,
  operands: [0, 0],
  failureStatus: 1,
  examples: [
    ['clearvm events --since 1h --until 0s', 'of the last hour'],
    ['clearvm events --filter event=die --format json', 'a line of JSON for each end'],
  ],
  parse: interspersed('events', options),

  async run({ options: given }, context) {
    const engine = await context.engine();
    const format = given.text('format');
    const [since, until] = (['since', 'until'] as const).map((name) => {
      const text = given.text(name);
      return text === undefined ? undefined : parseTime(text, name, 'events');
    });
    const events = engine.events({
      filters: given.list('filter'),
      ...(since === undefined ? {} : { since }),
      ...(until === undefined ? {} : { until }),
    });
    for await (const event of events) {
      let line = formatEvent(event);
      if (format === 'json' || format === '{{json .}}') line = eventJson(event);
      else if (format !== undefined) line = renderTemplate(format, eventFields(event), 'events');
      // Not held back: who reads it waits for it.
      if (!process.stdout.write(`${line}\n`)) {
        await new Promise<void>((resolve) => process.stdout.once('drain', resolve));
      }
    }
    return 0;
  },
};
