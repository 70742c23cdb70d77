import { createHash } from 'node:crypto';

/** Seed of one round, from the session's: attempts share it, so that a retried round trains as the first would have. */
export function roundSeed(sessionSeed: number, roundNumber: number): number {
  return digest(`round ${sessionSeed} ${roundNumber}`).readUInt32BE(0) & 0x7fff_ffff;
}

/** Where in [0, 1) selection begins; attempts differ, so that a retry meets other devices. */
export function selectionStart(seed: number, roundId: string): number {
  return digest(`selection ${seed} ${roundId}`).readUIntBE(0, 6) / 2 ** 48;
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
