/** What a pull or a push says, in docker's words: a line for each layer, and bars where somebody watches. */
import type { ImageProgress, ProgressListener, PulledImage } from '../image/index.js';
import { familiarName, parseReference } from '../image/index.js';
import { openProgressBars } from './progress.js';

export interface Transfer {
  listener: ProgressListener;
  /** Takes the bars away; lines that waited for that come now. */
  stop(): void;
}

/** Words for a layer that has got so far; undefined: nothing is said of it. */
type Wording = (progress: ImageProgress, terminal: boolean) => string | undefined;

const pulling: Wording = ({ step, subject, finished, done }, terminal) => {
  if (step === 'exists' && finished) return `${subject}: Already exists`;
  if (step === 'wait' && finished) return `Waiting for another pull of ${subject}`;
  if (step === 'unpack' && finished) return `${subject}: Pull complete`;
  if (step !== 'download' || terminal) return undefined;
  if (finished) return `${subject}: Download complete`;
  return done === 0 ? `${subject}: Pulling fs layer` : undefined;
};

const pushing: Wording = ({ step, subject, finished }, terminal) => {
  if (!finished) return step === 'upload' && !terminal ? `${subject}: Preparing` : undefined;
  if (step === 'exists') return `${subject}: Layer already exists`;
  if (step === 'mount') return subject.replace(' from ', ': Mounted from ');
  return step === 'upload' ? `${subject}: Pushed` : undefined;
};

/** `out`: where the lines go; bars are on stderr. */
async function openTransfer(out: NodeJS.WriteStream, wording: Wording): Promise<Transfer> {
  const bars = await openProgressBars();
  const terminal = bars.listener !== undefined && out.isTTY === true;
  const said = new Set<string>();
  const waiting: string[] = [];
  return {
    listener(progress) {
      bars.listener?.(progress);
      const text = wording(progress, terminal);
      // A download that begins anew would be announced anew.
      if (text === undefined || said.has(text)) return;
      said.add(text);
      if (terminal) waiting.push(`${text}\n`);
      else out.write(`${text}\n`);
    },
    stop() {
      bars.stop();
      for (const line of waiting.splice(0)) out.write(line);
    },
  };
}

/** What `push` says of layers. */
export function openPush(): Promise<Transfer> {
  return openTransfer(process.stdout, pushing);
}

export interface PullReport {
  onProgress: ProgressListener;
  onPulled(pulled: PulledImage): void;
  stop(): void;
}

/** What a pull of `text` says; `out` is stderr where stdout is the container's. */
export async function openPull(out: NodeJS.WriteStream, text: string): Promise<PullReport> {
  const reference = parseReference(text);
  if (!/[:@]/.test(text.slice(text.lastIndexOf('/') + 1))) out.write('Using default tag: latest\n');
  const transfer = await openTransfer(out, pulling);
  return {
    onProgress(progress) {
      if (progress.step === 'resolve') {
        const what = reference.digest === undefined ? reference.tag : familiarName(reference);
        if (progress.finished) out.write(`${what ?? ''}: Pulling from ${reference.path}\n`);
        return;
      }
      transfer.listener(progress);
    },
    onPulled({ digest, changed }) {
      transfer.stop();
      const name = familiarName(reference);
      const status = changed ? 'Downloaded newer image' : 'Image is up to date';
      out.write(`Digest: ${digest}\nStatus: ${status} for ${name}\n`);
    },
    stop: () => transfer.stop(),
  };
}
