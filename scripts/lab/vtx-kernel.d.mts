// The types of vtx-kernel.mjs, for tests written in TypeScript. The comments are there.

export function prepareVtxKernel(): Promise<string>;
