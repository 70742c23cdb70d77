import { Readable } from 'node:stream';

const PIECE_BYTES = 64 * 1024;

/**
 * A body that may take its time: undici's limit for an answer begins anew with each piece that the connection takes, but
 * counts all of a body that is one piece.
 */
export function inPieces(...bodies: readonly Uint8Array[]): Readable {
  return Readable.from(cut(bodies), { objectMode: false, highWaterMark: PIECE_BYTES });
}

function* cut(bodies: readonly Uint8Array[]): Generator<Uint8Array> {
  for (const bytes of bodies) {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
  }
}
