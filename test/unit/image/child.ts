// Runs one method of a store in a process of its own: child.ts METHOD ROOT ARGUMENT
import { ImageStore } from '../../../src/image/index.js';

const [method = '', root = '', argument = ''] = process.argv.slice(2);
const store = new ImageStore({
  root,
  onProgress: ({ step, done }) => {
    if (step === 'unpack' && done > 0) process.stdout.write('unpacking\n');
  },
});
if (method === 'load') await store.load(argument);
else if (method === 'resolve') await store.resolve(argument);
else throw new Error(`no method ${method}`);
