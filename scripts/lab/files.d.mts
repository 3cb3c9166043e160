// The types of the part of files.mjs that benchmarks use. The comments are there.

export function defaultFiles(project: string): { files: string[]; trees: string[] };
