import { readFileSync } from 'node:fs';

import { describe, expect, test } from 'vitest';

import {
  AGENT_VERSION,
  CONTROL_VERSION,
  ControlFrame,
  EXEC_TERMINAL,
  FRAME_HEADER,
  FRAME_MAX,
  Failure,
  FrameDecoder,
  MOUNT_FILE,
  SpecFlag,
  SpecTag,
  TLV_HEADER,
  Timeline,
  TlvWriter,
  encodeFrame,
} from '../../../src/vm/protocol.js';

const headers = new URL('../../../native/protocol/', import.meta.url);
const text =
  readFileSync(new URL('agent.h', headers), 'utf8') +
  readFileSync(new URL('control.h', headers), 'utf8');

/** Every `NAME = number` of enums and `#define NAME number` of both headers. */
function readConstants(): Map<string, number> {
  const constants = new Map<string, number>();
  const plain = text.replace(/\/\*[\s\S]*?\*\//g, '');
  for (const [, name = '', value] of plain.matchAll(/\b(CLEARVM_\w+) = (0x[0-9a-f]+|\d+)/g)) {
    constants.set(name, Number(value));
  }
  for (const [, name = '', value] of plain.matchAll(
    /#define (CLEARVM_\w+) (0x[0-9a-f]+|\d+)u?\s*$/gm,
  )) {
    constants.set(name, Number(value));
  }
  return constants;
}

describe('agreement with native/protocol', () => {
  const constants = readConstants();

  test.each([
    ['CLEARVM_CONTROL_', ControlFrame],
    ['CLEARVM_TIME_', Timeline],
    ['CLEARVM_FAILURE_', Failure],
    ['CLEARVM_SPEC_', SpecTag],
    ['CLEARVM_FLAG_', SpecFlag],
  ])('%s*: the same names and numbers on both sides', (prefix, ours) => {
    const theirs = Object.fromEntries(
      [...constants]
        .filter(([name]) => name.startsWith(prefix) && !name.endsWith('_VERSION'))
        .map(([name, value]) => [name.slice(prefix.length), value]),
    );
    expect(Object.keys(theirs).length).toBeGreaterThan(3);
    expect(ours).toEqual(theirs);
  });

  test('versions, limits and flags', () => {
    expect(constants.get('CLEARVM_CONTROL_VERSION')).toBe(CONTROL_VERSION);
    expect(constants.get('CLEARVM_AGENT_VERSION')).toBe(AGENT_VERSION);
    expect(constants.get('CLEARVM_MOUNT_FILE')).toBe(MOUNT_FILE);
    expect(constants.get('CLEARVM_EXEC_TERMINAL')).toBe(EXEC_TERMINAL);
    expect(text).toMatch(/#define CLEARVM_FRAME_MAX \(1u << 20\)/);
    expect(FRAME_MAX).toBe(1 << 20);
  });

  test('the layout of headers', () => {
    expect(text).toMatch(
      /struct clearvm_frame \{\s*uint32_t length;[^}]*uint16_t type;[^}]*uint16_t reserved;[^}]*uint32_t process;[^}]*\}/,
    );
    expect(FRAME_HEADER).toBe(4 + 2 + 2 + 4);
    expect(text).toMatch(
      /struct clearvm_tlv \{\s*uint16_t tag;[^}]*uint16_t reserved;[^}]*uint32_t length;[^}]*\}/,
    );
    expect(TLV_HEADER).toBe(2 + 2 + 4);
  });
});

describe('frames', () => {
  const stream = Buffer.concat([
    encodeFrame(ControlFrame.STARTED, 0, Buffer.alloc(0)),
    encodeFrame(ControlFrame.REPLY, 0xffff_ffff, Buffer.from('abc')),
    encodeFrame(ControlFrame.EXIT, 7, Buffer.alloc(8, 1)),
  ]);
  const expected = [
    [ControlFrame.STARTED, 0, ''],
    [ControlFrame.REPLY, 0xffff_ffff, '616263'],
    [ControlFrame.EXIT, 7, '0101010101010101'],
  ];

  function decode(chunks: Buffer[]): unknown[] {
    const decoder = new FrameDecoder();
    return chunks
      .flatMap((chunk) => decoder.push(chunk))
      .map(({ type, request, payload }) => [type, request, payload.toString('hex')]);
  }

  test('are little-endian: length, type, 0, request', () => {
    expect(encodeFrame(0x81, 0x01020304, Buffer.from([9, 8])).toString('hex')).toBe(
      '02000000' + '8100' + '0000' + '04030201' + '0908',
    );
  });

  test('come out of one chunk', () => {
    expect(decode([stream])).toEqual(expected);
  });

  test('come out of a stream that is cut at any byte', () => {
    for (let cut = 0; cut <= stream.length; cut++) {
      expect(decode([stream.subarray(0, cut), stream.subarray(cut)])).toEqual(expected);
    }
  });

  test('come out of single bytes', () => {
    expect(decode(Array.from(stream, (byte) => Buffer.from([byte])))).toEqual(expected);
  });

  test('an incomplete frame does not come out', () => {
    expect(decode([stream.subarray(0, stream.length - 1)])).toEqual(expected.slice(0, 2));
  });

  test('of any size up to the limit, and none beyond it', () => {
    const largest = encodeFrame(1, 0, Buffer.alloc(FRAME_MAX));
    expect(new FrameDecoder().push(largest)[0]?.payload.length).toBe(FRAME_MAX);
    expect(() => encodeFrame(1, 0, Buffer.alloc(FRAME_MAX + 1))).toThrow(/1048577 bytes/);
    const header = Buffer.alloc(FRAME_HEADER);
    header.writeUInt32LE(FRAME_MAX + 1, 0);
    expect(() => new FrameDecoder().push(header)).toThrow(
      expect.objectContaining({ code: 'ERR_FRAME_TOO_LARGE' }),
    );
  });
});

test('TLVs carry lengths in bytes, not characters', () => {
  const bytes = new TlvWriter()
    .add(SpecTag.ARG, 'ä')
    .add(SpecTag.FILE, Buffer.from([1]), 'x')
    .finish();
  expect(bytes.toString('hex')).toBe(
    '0100' + '0000' + '02000000' + 'c3a4' + '0b00' + '0000' + '02000000' + '0178',
  );
});
