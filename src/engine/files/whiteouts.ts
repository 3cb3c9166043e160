/** Tar members that say, in a layer, what the layers below have and it has not (OCI image-spec, layer.md). */

const BLOCK = 512;
/** Of a name in a header; a longer one has a member of its own in front (GNU's `L`). */
const NAME_MAX = 100;

function header(name: Buffer, type: string, size: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  name.copy(block, 0, 0, NAME_MAX);
  block.write('0000644\0', 100); // mode
  block.write('0000000\0', 108); // owner
  block.write('0000000\0', 116); // group
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  block.write('00000000000\0', 136); // mtime
  block.write(' '.repeat(8), 148); // the sum counts itself as blanks
  block.write(type, 156);
  block.write('ustar  \0', 257); // GNU's
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

/** The members for these paths, without the end of an archive. `paths`: relative to the root. */
export function whiteouts(paths: readonly Buffer[]): Buffer {
  const blocks: Buffer[] = [];
  for (const path of paths) {
    const slash = path.lastIndexOf(0x2f) + 1;
    const name = Buffer.concat([
      path.subarray(0, slash),
      Buffer.from('.wh.'),
      path.subarray(slash),
    ]);
    if (name.length > NAME_MAX) {
      const whole = Buffer.concat([name, Buffer.alloc(1)]);
      const padding = (BLOCK - (whole.length % BLOCK)) % BLOCK;
      blocks.push(
        header(Buffer.from('././@LongLink'), 'L', whole.length),
        whole,
        Buffer.alloc(padding),
      );
    }
    blocks.push(header(name, '0', 0));
  }
  return Buffer.concat(blocks);
}
