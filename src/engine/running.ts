/** Containers that run, whoever has started them, and their VMMs' sockets. */
import { readFileSync } from 'node:fs';

import { ClearVMError, errnoOf } from '../errors.js';
import { loadAddon } from '../vm/native.js';
import { VmmClient } from '../vm/client.js';
import { checkOciSpec, type OciSpec } from '../vm/spec.js';
import { VMM_SOCKET } from '../vm/vmm.js';
import { findContainer } from './lookup.js';

/** A container that may run. */
export interface Running {
  id: string;
  name: string;
  /** <runtime>/<id> */
  directory: string;
  /** <root>/containers/<id> */
  dataDirectory: string;
}

/**
 * A container by its id, its name, or the beginning of its id.
 * Errors: ERR_CONTAINER_NOT_FOUND, ERR_CONTAINER_AMBIGUOUS.
 */
export function findRunning(root: string, runtimeDir: string, reference: string): Running {
  const { id, name } = findContainer(root, reference);
  return {
    ...{ id, name, directory: `${runtimeDir}/${id}` },
    dataDirectory: `${root}/containers/${id}`,
  };
}

/** The spec that the container was started with. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_OCI_SPEC. */
export function readRuntimeSpec({ id, dataDirectory }: Running): OciSpec {
  let text: string;
  try {
    text = readFileSync(`${dataDirectory}/config.json`, 'utf8');
  } catch (cause) {
    if (errnoOf(cause) === 'ENOENT') throw notRunning(id);
    throw cause;
  }
  const spec: unknown = JSON.parse(text);
  checkOciSpec(spec);
  return spec;
}

/** A connection to its VMM. Errors: ERR_CONTAINER_NOT_RUNNING, ERR_VMM_BUSY, ERR_VMM_CONNECT. */
export function connectRunning(container: Running): VmmClient {
  try {
    return new VmmClient(loadAddon(), `${container.directory}/${VMM_SOCKET}`);
  } catch (error) {
    throw aboutContainer(error, container);
  }
}

/** A failure of a request, in docker's words where it is about the container. */
export function aboutContainer(error: unknown, { id }: { id: string }): unknown {
  if (!(error instanceof ClearVMError)) return error;
  if (error.code === 'ERR_VMM_GONE') return notRunning(id);
  if (error.code !== 'ERR_CONTAINER_PAUSED') return error;
  const text = `Container ${id} is paused, unpause the container before exec`;
  return new ClearVMError(error.code, text, { cause: error, exitCode: 1 });
}

export function notRunning(id: string): ClearVMError {
  return new ClearVMError('ERR_CONTAINER_NOT_RUNNING', `Container ${id} is not running`, {
    exitCode: 1,
  });
}
