/** Finding containers as docker does: by id, by name, by the beginning of an id. */
import { ClearVMError } from '../errors.js';
import { readRecord, readRecords, type ContainerRecord } from './record.js';

/** What `--name` takes. */
export const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** Errors: ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS. */
export function findContainer(root: string, reference: string): ContainerRecord {
  if (/^[0-9a-f]{64}$/.test(reference)) {
    const record = readRecord(`${root}/containers/${reference}`);
    if (record) return record;
  }
  const records = readRecords(root);
  const name = reference.replace(/^\//, '');
  const named = records.find((record) => record.name === name);
  if (named) return named;
  const found = /^[0-9a-f]+$/.test(reference)
    ? records.filter(({ id }) => id.startsWith(reference))
    : [];
  if (found.length > 1) {
    throw new ClearVMError(
      'ERR_CONTAINER_AMBIGUOUS',
      `Multiple IDs found with provided prefix: ${reference}`,
    );
  }
  const [only] = found;
  if (!only) {
    throw new ClearVMError('ERR_CONTAINER_NOT_FOUND', `No such container: ${reference}`);
  }
  return only;
}
